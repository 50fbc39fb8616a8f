'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/* plotly reads a few HTML tags in its texts */
const plain = (text) => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
const short = (text, most) => { const s = String(text); return s.length > most ? s.slice(0, most - 1) + '…' : s; };
const narrow = () => window.innerWidth < 700;
/* distinct for colour-blind people (after Okabe & Ito), readable on light and dark */
const COLOURS = ['#2f7fd0', '#d9730d', '#159a76', '#c653a5', '#a98600', '#7b61d1', '#2aa5b8', '#c94a3b'];
const colour = (index) => COLOURS[index % COLOURS.length];
const faint = (hex, opacity) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
};
const show = (value, digits = 4) => (value === null || value === undefined ? '–' : String(Number(value.toPrecision(digits))));

const plots = new Map();
const axis = () => ({
  gridcolor: css('--grid'), zerolinecolor: css('--line'), linecolor: css('--line'), tickcolor: css('--line'),
  automargin: true,
});
function layout(extra) {
  const base = {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 12 : 13, color: css('--ink') },
    margin: { l: 52, r: 12, t: 10, b: 44 },
    hoverlabel: { bgcolor: css('--card'), bordercolor: css('--line'), font: { color: css('--ink') }, align: 'left', namelength: -1 },
    legend: { orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', font: { size: 12 } },
    dragmode: window.matchMedia('(pointer: coarse)').matches ? false : 'zoom',
    ...extra,
  };
  base.xaxis = { ...axis(), ...(extra.xaxis || {}) };
  base.yaxis = { ...axis(), ...(extra.yaxis || {}) };
  return base;
}
function draw(id) {
  const { make } = plots.get(id);
  const { traces, layout: extra } = make();
  const full = layout(extra);
  const box = $(id);
  if (full.height) { box.style.height = `${full.height}px`; box.style.minHeight = '0'; }
  return Plotly.react(box, traces, full, {
    responsive: true, displaylogo: false, displayModeBar: narrow() ? false : 'hover',
    modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d'],
  });
}
/* A plot is drawn when it comes near the screen, and again when a control, the theme or the width asks for it. */
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); plots.get(entry.target.id).seen = true; draw(entry.target.id); }
}, { rootMargin: '600px' });
function plot(id, make) {
  if (!$(id)) return;
  plots.set(id, { make, seen: false });
  near.observe($(id));
}
function redraw(...ids) {
  for (const id of ids.length ? ids : plots.keys()) if (plots.get(id)?.seen) draw(id);
}
function on(id, event, action) { const box = $(id); if (box) box.addEventListener(event, action); }

const THEMES = ['auto', 'light', 'dark'];
function theme(name) {
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try { if (name === 'auto') localStorage.removeItem('ganjax-theme'); else localStorage.setItem('ganjax-theme', name); } catch {}
  $('theme').textContent = `Theme: ${name}`;
}
$('theme').textContent = `Theme: ${document.documentElement.dataset.theme || 'auto'}`;
$('theme').addEventListener('click', () => {
  theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || 'auto') + 1) % THEMES.length]);
  redraw();
});
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => redraw());
let wasNarrow = narrow();
window.addEventListener('resize', () => { if (narrow() !== wasNarrow) { wasNarrow = narrow(); redraw(); } });
