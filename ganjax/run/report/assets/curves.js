/* Curves of log lines, shared by the page of a run and by that of a comparison. */
const AXES = { step: 'step', images: 'images', hours: 'hours' };
const chosenAxis = () => $('axis').value;
const smoothing = () => Number($('smooth').value);

/* steps → images or hours, between the known ones */
function along(clock, xs) {
  const kind = chosenAxis();
  if (kind === 'step') return xs;
  const known = clock[kind === 'hours' ? 'seconds' : 'images'];
  if (!known || known.x.length < 2) return xs;
  const scale = kind === 'hours' ? 1 / 3600 : 1;
  let at = 0;
  return xs.map((x) => {
    while (at < known.x.length - 2 && known.x[at + 1] < x) at += 1;
    while (at > 0 && known.x[at] > x) at -= 1;
    const [x0, x1] = [known.x[at], known.x[at + 1]], [y0, y1] = [known.y[at], known.y[at + 1]];
    return scale * (y0 + ((x - x0) / (x1 - x0 || 1)) * (y1 - y0));
  });
}
/* An exponential average over the points that are known, without the pull of its first value. */
function smoothed(ys, weight) {
  if (!weight) return ys;
  let mean = 0, mass = 0;
  return ys.map((y) => {
    if (y === null) return null;
    mean = weight * mean + (1 - weight) * y;
    mass = weight * mass + (1 - weight);
    return mean / mass;
  });
}
/* What all names begin with, up to a slash: the title says it already. */
function shared(names) {
  const parts = names.map((name) => name.split('/').slice(0, -1));
  let count = 0;
  while (names.length > 1 && parts.every((of) => count < of.length && of[count] === parts[0][count])) count += 1;
  return parts.length ? parts[0].slice(0, count).reduce((length, part) => length + part.length + 1, 0) : 0;
}
/* One series: the smoothed line, and what it was made of behind it. */
function line(series, clock, { name, label, ink, group, hidden, dash }) {
  const x = along(clock, series.x), weight = smoothing();
  const y = smoothed(series.y, weight);
  const common = { x, mode: series.x.length < 3 ? 'lines+markers' : 'lines', legendgroup: group, visible: hidden ? 'legendonly' : true };
  const traces = [];
  if (weight) traces.push({ ...common, y: series.y, line: { color: faint(ink, 0.25), width: 1, dash }, hoverinfo: 'skip', showlegend: false, name: plain(name) });
  traces.push({ ...common, y, name: plain(short(label || name, 34)), line: { color: ink, width: 1.8, dash }, hovertext: y.map((v, i) => `${plain(name)}<br>step ${show(series.x[i], 8)}: ${show(v)}`), hoverinfo: 'text' });
  return traces;
}
/* Labels at 1, 2 and 5 of each power of ten, or at the powers alone where there are many. */
function logTicks(traces) {
  const known = traces.filter((t) => t.visible !== 'legendonly').flatMap((t) => t.y).filter((y) => y > 0);
  if (!known.length) return {};
  const span = Math.log10(known.reduce((a, b) => Math.max(a, b)) / known.reduce((a, b) => Math.min(a, b)));
  return { dtick: span > 2.5 ? Math.ceil(span / 8) : 'D2' };
}
function frame(traces, log, shapes, notes) {
  const rows = traces.filter((t) => t.showlegend !== false).length;
  return {
    traces,
    layout: {
      height: (narrow() ? 300 : 320) + 16 * Math.ceil(rows / (narrow() ? 2 : 4)), hovermode: 'closest', showlegend: rows > 1,
      xaxis: { title: { text: AXES[chosenAxis()], font: { size: 12 } } },
      yaxis: { type: log ? 'log' : 'linear', tickformat: '~g', exponentformat: 'e', ...(log ? logTicks(traces) : {}) }, shapes, annotations: notes,
    },
  };
}
const isLog = (id) => document.querySelector(`.log[data-plot="${id}"]`).checked;
function controls() {
  on('axis', 'change', () => redraw());
  on('smooth', 'input', () => { $('smoothing').textContent = $('smooth').value; redraw(); });
  for (const box of document.querySelectorAll('.log')) box.addEventListener('change', () => redraw(box.dataset.plot));
}
