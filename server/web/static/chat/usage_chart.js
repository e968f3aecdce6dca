/** Tokens per day as a chart, and the same numbers as a table. */

import { h } from "./dom.js";
import { compact, dayOfMonth, number, weekdayDate } from "./format.js";
import { t } from "./words.js";

const DAYS = 14;
const ROWS = 5;

let redrawLast = () => {};
new MutationObserver(() => redrawLast()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redrawLast());

/** Draw the last 14 days of `usage`, the answer of `GET /conversations/usage`. Another call replaces the drawing. */
export async function drawUsage(canvas, tableElement, usage) {
  const days = sumDays(usage.usage);
  fillTable(tableElement, days);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", t("usage.chart"));
  await import("./chart.umd.min.js");
  redrawLast = () => draw(canvas, days);
  redrawLast();
}

/** The last days, oldest first, each with what all clients and models sent and received. */
function sumDays(rows) {
  const today = new Date();
  const days = Array.from({ length: DAYS }, (_, index) => {
    const date = new Date(today.getFullYear(), today.getMonth(), today.getDate() - DAYS + 1 + index);
    return { date, sent: 0, received: 0 };
  });
  const byName = new Map(days.map((day) => [isoDate(day.date), day]));
  for (const { date, prompt_tokens: sent, completion_tokens: received } of rows) {
    const day = byName.get(date);
    if (day) Object.assign(day, { sent: day.sent + sent, received: day.received + received });
  }
  return days;
}

const isoDate = (date) =>
  [date.getFullYear(), date.getMonth() + 1, date.getDate()].map((each) => String(each).padStart(2, "0")).join("-");

function fillTable(table, days) {
  const used = days.filter(({ sent, received }) => sent + received > 0).reverse();
  const head = [t("usage.day"), t("usage.sent_short"), t("usage.received_short")];
  const headRow = h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)));
  const row = ({ date, sent, received }) =>
    h("tr", {}, h("th", { scope: "row" }, weekdayDate(date)), h("td", {}, number(sent)), h("td", {}, number(received)));
  const body = h("tbody", {}, used.slice(0, ROWS).map(row));
  const showAll = () => {
    body.append(...used.slice(ROWS).map(row));
    foot.remove();
  };
  const more = h("button", { type: "button", class: "quiet", onclick: showAll }, t("usage.all"));
  const foot = h("tfoot", {}, h("tr", {}, h("td", { colSpan: 3 }, more)));
  table.replaceChildren(h("thead", {}, headRow), body, ...(used.length > ROWS ? [foot] : []));
}

function draw(canvas, days) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = { family: getComputedStyle(document.body).fontFamily, size: 11 };
  const bar = { stack: "tokens", maxBarThickness: 14, borderRadius: 2 };
  const sent = { ...bar, label: t("usage.sent"), data: days.map((day) => day.sent), borderWidth: 1 };
  const received = { ...bar, label: t("usage.received"), data: days.map((day) => day.received) };
  Object.assign(sent, { backgroundColor: colour("--jade-soft"), borderColor: colour("--jade") });
  Object.assign(received, { backgroundColor: colour("--jade"), hoverBackgroundColor: colour("--jade-2") });
  const ticks = { color: colour("--ink-3"), font };
  const middle = Math.floor((DAYS - 1) / 2);
  const dayTick = (_, index) => ([0, middle, DAYS - 1].includes(index) ? dayOfMonth(days[index].date) : "");
  Chart.getChart(canvas)?.destroy();
  return new Chart(canvas, {
    type: "bar",
    data: { labels: days.map((day) => weekdayDate(day.date)), datasets: [sent, received] },
    options: {
      animation: false,
      maintainAspectRatio: false,
      plugins: { legend: { display: false }, tooltip: { titleFont: font, bodyFont: font } },
      scales: {
        x: {
          stacked: true,
          border: { display: false },
          grid: { display: false },
          ticks: { ...ticks, autoSkip: false, maxRotation: 0, callback: dayTick },
        },
        y: {
          stacked: true,
          beginAtZero: true,
          border: { display: false },
          grid: { color: colour("--line") },
          ticks: { ...ticks, maxTicksLimit: 4, precision: 0, callback: (value) => compact(value) },
        },
      },
    },
  });
}
