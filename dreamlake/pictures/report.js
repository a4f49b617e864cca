// The page of `dreamlake report`: lists what is in it, and draws of that what is looked at.
"use strict";

const about = JSON.parse(document.getElementById("about").textContent);
// The ten colours that are easiest to tell apart, then their lighter ones; then the same, dashed.
const COLOURS = [
  "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b", "#ff9da6", "#79706e",
  "#9ecae9", "#ffbf79", "#88d27a", "#ff9d98", "#b5dfe0", "#d6a5c9", "#d8b5a5", "#b79a20", "#d67195", "#bab0ac",
];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const COLUMNS = 400; // stretches that are drawn of a curve, four points of each
const element = (id) => document.getElementById(id);
const colour = (run) => COLOURS[run % COLOURS.length];
const dash = (run) => DASHES[Math.floor(run / COLOURS.length) % DASHES.length];

const shown = new Set(about.runs.map((_, run) => run)); // runs that are drawn
let range = null; // of x, in all panels; null for all there is
const panels = about.panels.map((panel, number) => ({ ...panel, number, name: panel.track + " / " + panel.field }));

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// -- data -------------------------------------------------------------------------------------------------------------

function curvesOf(panel) {
  panel.data ??= (async () => {
    const text = element("panel-" + panel.number).textContent;
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  })();
  return panel.data;
}

function positions(curve, lists) {
  const over = element("x").value;
  if (over === "elapsed") return lists.elapsed;
  if (over === "time") return lists.elapsed.map((seconds) => (curve.start + seconds) * 1000);
  return (over === "step" && lists.step) || lists.index;
}

// The first, last, lowest and highest point of each stretch of what is in view: all that a line of pixels can show.
function thinned(x, y, from, to) {
  const inside = [];
  for (let at = 0; at < x.length; at++) {
    // One point more on either side, so that the line leaves the picture where it should.
    const next = x[Math.min(at + 1, x.length - 1)], last = x[Math.max(at - 1, 0)];
    if (x[at] !== null && next >= from && last <= to) inside.push(at);
  }
  if (inside.length <= 4 * COLUMNS) return inside;
  const kept = [];
  for (let stretch = 0; stretch < COLUMNS; stretch++) {
    const begin = Math.floor((stretch * inside.length) / COLUMNS), end = Math.floor(((stretch + 1) * inside.length) / COLUMNS);
    let low = begin, high = begin;
    for (let at = begin; at < end; at++) {
      const value = y[inside[at]];
      if (value === null) continue;
      if (y[inside[low]] === null || value < y[inside[low]]) low = at;
      if (y[inside[high]] === null || value > y[inside[high]]) high = at;
    }
    for (const at of [...new Set([begin, low, high, end - 1])].sort((a, b) => a - b)) kept.push(inside[at]);
  }
  return kept;
}

// An exponential moving average that does not start at 0; of means where there are more points than the page holds.
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return sum / norm;
  });
}

function drawable(y) {
  return element("log").checked ? y.map((value) => (value > 0 ? value : null)) : y;
}

function tracesOf(curves) {
  const weight = Number(element("smooth").value);
  const [from, to] = range ?? [-Infinity, Infinity];
  const traces = [];
  for (const curve of curves.filter((curve) => shown.has(curve.run))) {
    const name = about.runs[curve.run].name;
    const line = { color: colour(curve.run), dash: dash(curve.run), width: 1.5 };
    const add = (lists, values, more) => {
      const x = positions(curve, lists), y = drawable(values);
      const kept = thinned(x, y, from, to);
      const alone = kept.length === 1;
      traces.push({ type: "scatter", mode: alone ? "markers" : "lines", name, line, x: kept.map((at) => x[at]), y: kept.map((at) => y[at]), connectgaps: false, showlegend: false, ...more });
    };
    add(curve, curve.value, weight > 0 ? { opacity: 0.25, hoverinfo: "skip", line: { ...line, dash: "solid" } } : {});
    if (weight > 0) add(curve.means ?? curve, smoothed((curve.means ?? curve).value, weight), {});
  }
  return traces;
}

// -- panels -----------------------------------------------------------------------------------------------------------

async function draw(panel) {
  const turn = (panel.turn = (panel.turn ?? 0) + 1);
  const curves = await curvesOf(panel);
  if (turn !== panel.turn || !panel.visible) return; // another was asked for meanwhile
  const traces = tracesOf(curves);
  const layout = {
    margin: { l: 55, r: 10, t: 8, b: 32 },
    hovermode: traces.length > 8 ? "closest" : "x unified",
    dragmode: "zoom",
    xaxis: { type: element("x").value === "time" ? "date" : "linear", ...(range ? { range: [...range] } : { autorange: true }) },
    yaxis: { type: element("log").checked ? "log" : "linear", autorange: true, exponentformat: "power" },
    showlegend: false,
    uirevision: element("x").value,
  };
  await Plotly.react(panel.plot, traces, layout, { responsive: true, displaylogo: false, scrollZoom: false, doubleClick: false, modeBarButtons: [["toImage", "zoom2d", "pan2d"]] });
  if (!panel.listens) {
    panel.listens = true;
    panel.plot.on("plotly_relayout", (change) => zoomed(change));
    panel.plot.on("plotly_doubleclick", () => zoomTo(null));
  }
  const missing = curves.reduce((sum, curve) => sum + (curve.nan ?? 0), 0);
  const total = curves.reduce((sum, curve) => sum + curve.count, 0);
  panel.note.textContent = `${total.toLocaleString("en")} points of ${curves.length} ${curves.length === 1 ? "run" : "runs"}` + (missing ? `, ${missing.toLocaleString("en")} NaN` : "");
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1); // for those who wait for it
}

function zoomed(change) {
  const from = change["xaxis.range[0]"] ?? change["xaxis.range"]?.[0], to = change["xaxis.range[1]"] ?? change["xaxis.range"]?.[1];
  if (from === undefined) return;
  const number = (value) => (typeof value === "string" ? Date.parse(value.replace(" ", "T") + "Z") : value);
  zoomTo([number(from), number(to)]);
}

function zoomTo(wanted) {
  if (JSON.stringify(wanted) === JSON.stringify(range)) return;
  range = wanted;
  redraw();
}

function redraw() {
  for (const panel of panels) if (panel.visible) draw(panel);
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const panel = panels[entry.target.dataset.number];
    panel.visible = entry.isIntersecting;
    if (panel.visible) draw(panel);
    else if (panel.listens) {
      Plotly.purge(panel.plot); // what is out of sight costs nothing
      panel.listens = false;
    }
  }
}, { root: document.querySelector("main"), rootMargin: "300px" });

function build(panel) {
  panel.plot = make("div", { className: "plot" });
  panel.note = make("p", { textContent: " " });
  const wide = make("button", { type: "button", textContent: "larger", onclick: () => {
    wide.textContent = panel.box.classList.toggle("wide") ? "smaller" : "larger";
    Plotly.Plots.resize(panel.plot);
  } });
  panel.box = make("article", { className: "panel" }, make("h2", {}, make("span", { textContent: panel.name }), wide), panel.note, panel.plot);
  panel.box.dataset.number = panel.number;
  panel.entry = make("li", {}, make("button", { type: "button", onclick: () => panel.box.scrollIntoView({ block: "start" }) }, panel.track + " ", make("small", { textContent: panel.field })));
}

// -- what is there ----------------------------------------------------------------------------------------------------

function search() {
  const words = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = panels.filter((panel) => words.every((word) => panel.name.toLowerCase().includes(word)));
  watcher.disconnect();
  for (const panel of panels) panel.visible = false;
  element("tracks").replaceChildren(...found.map((panel) => panel.entry));
  element("panels").replaceChildren(...found.map((panel) => panel.box));
  for (const panel of found) watcher.observe(panel.box);
  element("found").textContent = `${found.length} of ${panels.length} fields`;
}

// Parameters in which the runs differ come first; those that are the same in all are left to the tooltip of a run.
function runsTable() {
  const names = [...new Set(about.runs.flatMap((run) => Object.keys(run.parameters)))];
  const differing = names.filter((name) => new Set(about.runs.map((run) => JSON.stringify(run.parameters[name]))).size > 1);
  const columns = about.runs.length > 1 ? differing : names;
  const same = names.filter((name) => !columns.includes(name)).map((name) => `${name}=${about.runs[0].parameters[name]}`).join(", ");
  const order = about.runs.map((_, run) => run);
  const body = make("tbody");
  const fill = () => body.replaceChildren(...order.map((run) => {
    const { name, status, description, parameters } = about.runs[run];
    const box = make("input", { type: "checkbox", checked: shown.has(run), ariaLabel: name, onchange: () => {
      box.checked ? shown.add(run) : shown.delete(run);
      redraw();
    } });
    const swatch = make("span", { className: "colour" });
    swatch.style.background = colour(run);
    return make("tr", {}, make("td", {}, box, " ", swatch), make("td", { textContent: name, title: description ?? "" }), make("td", { textContent: status ?? "" }), ...columns.map((column) => make("td", { textContent: short(parameters[column]), title: parameters[column] ?? "" })));
  }));
  let turned = 1;
  const sort = (value) => {
    order.sort((a, b) => turned * compare(value(about.runs[a]), value(about.runs[b])));
    turned = -turned;
    fill();
  };
  const heading = (text, value) => make("th", { textContent: text, onclick: () => sort(value) });
  const all = make("th", { textContent: "all", title: "draw all or none", onclick: () => {
    if (shown.size) shown.clear();
    else about.runs.forEach((_, run) => shown.add(run));
    fill();
    redraw();
  } });
  fill();
  const head = make("tr", {}, all, heading("run", (run) => run.name), heading("status", (run) => run.status), ...columns.map((column) => heading(column, (run) => run.parameters[column])));
  element("runs").replaceChildren(make("table", {}, make("thead", {}, head), body), same ? make("p", { textContent: `the same in all: ${same}` }) : "");
}

function short(value) {
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : (value ?? "");
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === undefined || a === null) return 1;
  if (b === undefined || b === null) return -1;
  return a < b ? -1 : 1;
}

element("title").textContent = about.title;
element("made").textContent = `made ${about.made.replace("T", " ").replace("+00:00", " UTC")}`;
element("runs-title").textContent = `${about.runs.length} ${about.runs.length === 1 ? "run" : "runs"}`;
if (about.damage.length) {
  element("damage").hidden = false;
  element("damage").textContent = "Not in this page, since it is damaged:\n" + about.damage.join("\n");
}
element("search").oninput = search;
for (const id of ["x", "log"]) element(id).onchange = () => {
  if (id === "x") range = null;
  redraw();
};
element("smooth").oninput = () => {
  element("smooth-value").value = element("smooth").value;
  redraw();
};
element("reset").onclick = () => zoomTo(null);
panels.forEach(build);
runsTable();
search();
