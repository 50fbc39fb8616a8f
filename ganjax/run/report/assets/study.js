const VERDICTS = {
  better: ['--better', 'circle'], worse: ['--worse', 'circle'],
  'no difference seen': ['--none', 'circle-open'], 'too few seeds': ['--mark', 'diamond-open'],
};
const metric = () => data.metrics[Number($('metric').value)];

/* The widest bound that is shown: a few huge intervals must not flatten all others. */
function reach(bounds) {
  const sorted = bounds.map(Math.abs).sort((a, b) => a - b);
  if (!sorted.length) return 1;
  const usual = sorted[Math.floor(sorted.length * 0.6)];
  return Math.min(sorted[sorted.length - 1], Math.max(usual * 4, 1e-9)) * 1.08 || 1;
}
function forest() {
  const { name, better } = metric();
  const raw = $('unit').value === 'raw';
  const rows = [];
  let y = 0, group = null;
  const headings = [];
  for (const variant of data.variants) {
    const found = variant.comparisons[name];
    if (!found) continue;
    if (variant.group !== group) { group = variant.group; if (group) { headings.push([y, group]); y += 1; } }
    const at = raw ? found.difference : found.effect;
    rows.push({ y, variant, found, at, interval: raw ? found.interval : found.effect_interval });
    y += 1;
  }
  const most = reach(rows.flatMap((row) => (row.at === null ? [] : [row.at, ...(row.interval || [])])));
  const bounds = rows.flatMap((row) => (row.at === null ? [] : [row.at, ...(row.interval || [])]));
  const low = Math.max(-most, Math.min(0, ...bounds)), high = Math.min(most, Math.max(0, ...bounds));
  const clip = (x) => Math.max(low, Math.min(high, x));
  const room = 0.06 * (high - low || 1);
  const range = [low - room, high + room];
  const flipped = raw && better === 'lower';
  const traces = [], notes = [];
  for (const row of rows) {
    const [tone, symbol] = VERDICTS[row.found.verdict];
    const text = hover(row, name);
    if (row.at === null) { notes.push({ x: 0, y: row.y, text: row.found.pairs ? 'the base does not vary' : 'no pairs of runs', showarrow: false, font: { color: css('--soft'), size: 11 } }); continue; }
    if (row.interval) {
      const ends = row.interval.map(clip);
      traces.push({ x: ends, y: [row.y, row.y], mode: 'lines', line: { color: css(tone), width: 2.5 }, hoverinfo: 'skip' });
      const cut = row.interval.filter((x) => x < low || x > high);
      if (cut.length) traces.push({ x: cut.map(clip), y: cut.map(() => row.y), mode: 'markers', marker: { color: css(tone), size: 11, symbol: cut.map((x) => ((x < low) === flipped ? 'triangle-right' : 'triangle-left')) }, hovertext: cut.map(() => text), hoverinfo: 'text', cliponaxis: false });
    }
    if (row.at >= low && row.at <= high) traces.push({ x: [row.at], y: [row.y], mode: 'markers', marker: { color: css(tone), size: 10, symbol, line: { width: 2, color: css(tone) } }, hovertext: text, hoverinfo: 'text' });
  }
  const small = narrow();
  const tick = (row) => plain(short(row.variant.name, 30));
  if (small) for (const row of rows) notes.push({ xref: 'paper', x: 0, y: row.y, yshift: 13, xanchor: 'left', text: tick(row), showarrow: false, font: { size: 12 } });
  for (const [at, text] of headings) notes.push({ xref: 'paper', x: 0, xanchor: small ? 'left' : 'right', y: at, text: `<b>${plain(short(text, 34))}</b>`, showarrow: false, font: { size: 12, color: css('--soft') }, xshift: small ? 0 : -6 });
  const unit = raw ? plain(name) : 'standard deviations of the base';
  return {
    traces,
    layout: {
      height: 90 + y * (small ? 44 : 32), showlegend: false, hovermode: 'closest', annotations: notes,
      margin: { l: small ? 6 : 60, r: 12, t: 8, b: 52 },
      xaxis: { range: flipped ? range.slice().reverse() : range, title: { text: small ? `${raw ? unit : 'SD of the base'}, better →` : `difference in ${unit}, better →`, font: { size: 12 } }, zeroline: true, zerolinewidth: 1.5, zerolinecolor: css('--soft') },
      yaxis: { range: [y - 0.4, -0.7], showgrid: false, zeroline: false, tickvals: small ? [] : [...rows.map((row) => row.y), ...headings.map(([at]) => at)], ticktext: small ? [] : [...rows.map(tick), ...headings.map(([, text]) => `<span style="color:rgba(0,0,0,0)"><b>${plain(short(text, 34))}</b></span>`)], fixedrange: true },
    },
  };
}
function hover({ variant, found }, name) {
  const range = (of) => (of ? ` [${show(of[0], 3)}, ${show(of[1], 3)}]` : '');
  return [
    `<b>${plain(variant.name)}</b>: ${found.verdict}`,
    `${plain(name)}: ${show(found.difference, 3)}${range(found.interval)}`,
    `in SD of the base: ${show(found.effect, 3)}${range(found.effect_interval)}`,
    `${found.pairs} pairs, ${found.failed} failed, p ${show(found.p_corrected, 2)}`,
  ].join('<br>');
}

function curves() {
  const { name, curves: all } = metric();
  const group = $('group') ? $('group').value : '';
  const every = $('spread').value === 'seeds';
  const chosen = data.variants.filter((v) => v.base || !group || v.group === group);
  const traces = [];
  let index = 0;
  for (const variant of chosen) {
    const ink = variant.base ? css('--soft') : colour(index++);
    const of = all[variant.name];
    if (!of) continue;
    const tone = ink.startsWith('#') ? ink : '#808080';
    const common = { legendgroup: variant.name, name: plain(short(variant.name, 28)) };
    if (every) {
      of.lines.forEach((line, i) => traces.push({ ...common, x: of.images, y: line, mode: 'lines', line: { color: faint(tone, 0.85), width: 1.2 }, showlegend: i === 0, hovertext: line.map((y, j) => `${plain(variant.name)}, seed ${of.seeds[i]}<br>${show(of.images[j])} images: ${show(y)}`), hoverinfo: 'text' }));
      continue;
    }
    traces.push({ ...common, x: [...of.images, ...of.images.slice().reverse()], y: [...of.high, ...of.low.slice().reverse()], fill: 'toself', fillcolor: faint(tone, 0.16), line: { width: 0 }, mode: 'lines', hoverinfo: 'skip', showlegend: false });
    traces.push({ ...common, x: of.images, y: of.middle, mode: 'lines', line: { color: tone, width: variant.base ? 3 : 2, dash: variant.base ? 'dot' : 'solid' }, hovertext: of.middle.map((y, j) => `${plain(variant.name)}<br>${show(of.images[j])} images: ${show(y)} [${show(of.low[j])}, ${show(of.high[j])}]`), hoverinfo: 'text' });
  }
  return {
    traces,
    layout: {
      height: (narrow() ? 380 : 440) + Math.ceil(chosen.length / (narrow() ? 2 : 6)) * 14, hovermode: 'closest',
      xaxis: { title: { text: 'images', font: { size: 12 } }, rangemode: 'tozero' },
      yaxis: { title: { text: plain(name), font: { size: 12 } }, type: $('log').checked ? 'log' : 'linear' },
    },
  };
}

plot('forest', forest);
plot('curves', curves);
on('metric', 'change', () => {
  for (const table of document.querySelectorAll('.table')) table.hidden = table.dataset.metric !== $('metric').value;
  redraw();
});
on('unit', 'change', () => redraw('forest'));
for (const id of ['group', 'spread', 'log']) on(id, 'change', () => redraw('curves'));
