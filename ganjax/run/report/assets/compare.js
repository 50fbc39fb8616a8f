const DASHES = ['solid', 'dash', 'dot', 'dashdot'];
for (const { id } of data.plots) {
  const chooser = document.querySelector(`.series[data-plot="plot-${id}"]`);
  plot(`plot-${id}`, () => frame(data.runs.flatMap((run, i) => {
    const series = run.series[chooser.value];
    return series ? line(series, run.clock, { name: run.name, ink: colour(i), group: run.name, dash: DASHES[Math.floor(i / COLOURS.length) % 4] }) : [];
  }), isLog(`plot-${id}`), [], []));
  chooser.addEventListener('change', () => redraw(`plot-${id}`));
}
controls();
