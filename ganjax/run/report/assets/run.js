/* Verdicts: a shade over the steps, and a mark at the top that names the verdict and its lesson when pointed at. */
function verdictMarks() {
  if (!$('verdicts').checked) return [[], []];
  const shapes = [], notes = [];
  for (const mark of data.marks) {
    const [from, to] = along(data.clock, [mark.first, mark.last]);
    const tone = css(mark.fine ? '--mark' : '--worse');
    shapes.push({ type: 'rect', xref: 'x', yref: 'paper', x0: from, x1: to, y0: 0, y1: 1, fillcolor: faint(tone, mark.fine ? 0.1 : 0.13), line: { width: 0 }, layer: 'below' });
    notes.push({ x: from, xref: 'x', y: 1, yref: 'paper', yanchor: 'top', text: mark.fine ? '≈' : '▼', showarrow: false, font: { color: tone, size: 13 }, captureevents: true, hovertext: `${plain(mark.verdict)}, steps ${mark.first} to ${mark.last}<br>Lesson ${plain(mark.lesson)}` });
  }
  return [shapes, notes];
}
for (const { id, series, hidden } of data.plots) {
  const cut = shared(series);
  plot(`plot-${id}`, () => {
    const traces = series.flatMap((name, i) => line(data.series[name], data.clock, { name, label: name.slice(cut), ink: colour(i), group: name, hidden: hidden.includes(name), dash: i >= COLOURS.length ? 'dot' : 'solid' }));
    return frame(traces, isLog(`plot-${id}`), ...verdictMarks());
  });
}
controls();
on('verdicts', 'change', () => redraw());

function turn(index) {
  const shot = data.frames[index], last = data.frames.length - 1;
  $('time').value = String(index);
  $('grid').src = shot.source;
  $('grid').alt = `Grid of samples at step ${shot.step}`;
  if ($('scales')) $('scales').src = shot.scales || data.frames[last].scales;
  $('when').textContent = `step ${shot.step.toLocaleString('en').replace(/,/g, '\u202f')}${index === last ? ', the newest' : ''}`;
}
on('time', 'input', () => turn(Number($('time').value)));
let playing = null;
function stop() { clearInterval(playing); playing = null; $('play').textContent = 'Play'; $('play').setAttribute('aria-pressed', 'false'); }
on('play', 'click', () => {
  if (playing) { stop(); return; }
  const last = data.frames.length - 1;
  if (Number($('time').value) === last) turn(0);
  $('play').textContent = 'Stop';
  $('play').setAttribute('aria-pressed', 'true');
  playing = setInterval(() => { const at = Number($('time').value); if (at >= last) stop(); else turn(at + 1); }, 500);
});

/* A running run's page: what has changed comes by itself, unless somebody is busy with the page. */
if (data.running) {
  const reload = setInterval(() => location.reload(), 60000);
  for (const kind of ['input', 'click', 'keydown']) addEventListener(kind, () => clearInterval(reload));
}
