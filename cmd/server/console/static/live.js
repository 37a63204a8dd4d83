"use strict";
// Keeps the overview up to date: tiles, charts and tables, once a second.
const kept = 600; // seconds
const samples = [];
const color = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const byId = id => document.getElementById(id);
const figure = value => value == null ? "–" : value >= 100 ? Math.round(value).toLocaleString("en").replaceAll(",", "\u202f")
  : Number(value.toFixed(1)).toString();

const clock = at => at == null ? "–" : new Date(at * 1000).toLocaleTimeString("en-GB");

function chart(id, lines) {
  const target = byId(id);
  const axis = () => ({stroke: color("soft"), grid: {stroke: color("line")}, ticks: {stroke: color("line")}});
  const plot = new uPlot({
    width: target.clientWidth, height: 190,
    cursor: {y: false},
    scales: {y: {range: (_, low, high) => [0, Math.max(1, high * 1.1)]}},
    axes: [{...axis(), values: (_, times) => times.map(clock), space: 80}, {...axis(), size: 55}],
    series: [{label: "time", value: (_, at) => clock(at)}].concat(lines.map(line => ({label: line.label, stroke: color(line.color), width: 1.5,
      value: (_, value) => figure(value)}))),
  }, [[], ...lines.map(() => [])], target);
  addEventListener("resize", () => plot.setSize({width: target.clientWidth, height: 190}));
  return () => plot.setData([samples.map(s => s.at), ...lines.map(line => samples.map(line.value))]);
}

const draws = [
  chart("rates", [
    {label: "accepted", color: "blue", value: s => s.accepted},
    {label: "done", color: "orange", value: s => s.done},
    {label: "called back", color: "green", value: s => s.called_back}]),
  chart("times", [
    {label: "p50", color: "blue", value: s => s.p50},
    {label: "p99", color: "orange", value: s => s.p99}]),
  chart("unfinished", [{label: "unfinished", color: "blue", value: s => s.unfinished}]),
  chart("refused", [{label: "refused", color: "red", value: s => s.refused}]),
];

function cells(row, values) {
  for (const value of values) row.insertCell().textContent = value;
}

function fill(id, rows, empty) {
  const body = byId(id);
  body.replaceChildren();
  for (const row of rows) cells(body.insertRow(), row);
  if (rows.length === 0 && empty) cells(body.insertRow(), [empty]);
}

function showLatest() {
  const latest = samples.at(-1);
  if (!latest) return;
  for (const shown of document.querySelectorAll("[data-figure]")) {
    if (shown.dataset.figure in latest) shown.textContent = figure(latest[shown.dataset.figure]);
  }
  for (const shown of document.querySelectorAll("[data-jobs]")) shown.textContent = figure(latest.jobs?.[shown.dataset.jobs] ?? 0);
  fill("reasons", Object.entries(latest.reasons ?? {}).map(([reason, n]) => [reason, figure(n) + " in ten seconds"]));
}

let alarms = null; // as they are shown: what has not changed isn't read aloud again
function showAlarms(told) {
  if (JSON.stringify(told) === JSON.stringify(alarms)) return;
  alarms = told;
  byId("alarms").replaceChildren(...told.map(text => {
    const alarm = document.createElement("p");
    alarm.className = "alarm";
    alarm.textContent = text;
    return alarm;
  }));
}

function showState(state) {
  showAlarms(state.alarms);
  if (!state.processes) return;
  fill("processes", state.processes.map(p => [p.id, p.beat]), "none");
  state.processes.forEach((p, i) => byId("processes").rows[i].cells[1].classList.toggle("bad", p.lost));
}

let last = 0;
const source = new EventSource("/live");
source.onmessage = message => {
  const event = JSON.parse(message.data);
  for (const sample of event.samples ?? []) {
    if (sample.at > last) samples.push(sample);
    last = Math.max(last, sample.at);
  }
  samples.splice(0, samples.length - kept);
  if (event.state) showState(event.state);
  showLatest();
  if (!document.hidden) draws.forEach(draw => draw());
};
source.onerror = () => { byId("away").hidden = false; };
source.onopen = () => { byId("away").hidden = true; };
