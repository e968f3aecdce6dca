/** Days and numbers in the current language. What is not known gives an empty text, never 0. */

import { language, t } from "./words.js";

const made = new Map();

/** The browser's own kind of English, such as en-GB, decides the order of day and month and the clock. */
const locale = () => navigator.languages.find((each) => each.toLowerCase().startsWith(language())) ?? language();

function intl(Kind, options, place = locale()) {
  const key = `${Kind.name} ${place} ${JSON.stringify(options)}`;
  if (!made.has(key)) made.set(key, new Kind(place, options));
  return made.get(key);
}

const date = (value, options) => intl(Intl.DateTimeFormat, options).format(value);
const decimal = (value, digits) =>
  intl(Intl.NumberFormat, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
const known = (...values) => values.every((value) => Number.isFinite(value));
const clock = () => (language() === "ko" ? { hourCycle: "h23" } : {});

/** Whole days of the local calendar from `then` to `now`; 0 for the future. */
function daysAgo(then, now) {
  const day = (each) => Date.UTC(each.getFullYear(), each.getMonth(), each.getDate());
  return Math.max(0, Math.round((day(now) - day(then)) / 86_400_000));
}

/** The heading in the list of conversations under which `then` stands. */
export function groupOf(then, now = new Date()) {
  const days = daysAgo(then, now);
  if (days === 0) return t("group.today");
  if (days === 1) return t("group.yesterday");
  if (days <= 7) return t("group.week");
  if (days <= 30) return t("group.month");
  const sameYear = then.getFullYear() === now.getFullYear();
  return date(then, { month: "long", ...(sameYear ? {} : { year: "numeric" }) });
}

/** Time today and yesterday, the weekday as long as it is unmistakable, else the date. */
export function listTime(then, now = new Date()) {
  const days = daysAgo(then, now);
  if (days <= 1) return clockTime(then);
  if (days < 7) return date(then, { weekday: language() === "ko" ? "long" : "short" });
  const sameYear = then.getFullYear() === now.getFullYear();
  return date(then, { month: "short", day: "numeric", ...(sameYear ? {} : { year: "numeric" }) });
}

/** "09:18", "9:18 AM" */
export function clockTime(then) {
  const { hourCycle } = intl(Intl.DateTimeFormat, { hour: "numeric", ...clock() }).resolvedOptions();
  return date(then, { hour: hourCycle === "h23" ? "2-digit" : "numeric", minute: "2-digit", ...clock() });
}
export const fullTime = (then) => date(then, { dateStyle: "full", timeStyle: "short", ...clock() });
export const longDate = (then) => date(then, { dateStyle: "long" });
export const weekdayDate = (then) => date(then, { weekday: "short", day: "numeric", month: "short" });
export const dayOfMonth = (then) => date(then, { day: "numeric" });

export const number = (n) => (known(n) ? intl(Intl.NumberFormat, {}).format(n) : "");
export const compact = (n) =>
  known(n) ? intl(Intl.NumberFormat, { notation: "compact", maximumFractionDigits: 1 }, language()).format(n) : "";

/** "312 tokens" */
export const tokens = (n) => (known(n) ? withUnit(number(n), n) : "");

/** "412 → 268 tokens": sent and received. */
export const exchange = (sent, received) =>
  known(sent, received) ? `${number(sent)} → ${withUnit(number(received), received)}` : "";

const withUnit = (text, n) => (language() === "ko" ? `${text}토큰` : `${text} ${n === 1 ? "token" : "tokens"}`);

/** "2.1 s", "31 s", "1 min 12 s" */
export function seconds(s) {
  if (!known(s)) return "";
  const [minute, second] = language() === "ko" ? ["분", "초"] : [" min", " s"];
  if (Math.round(s * 10) < 100) return decimal(s, 1) + second;
  const whole = Math.round(s);
  if (whole < 60) return decimal(whole, 0) + second;
  const rest = whole % 60;
  return decimal(Math.floor(whole / 60), 0) + minute + (rest ? ` ${rest}${second}` : "");
}

/** "74 tok/s", "7.4 tok/s"; nothing for a time that is too short to tell. */
export function rate(n, s) {
  if (!known(n, s) || n <= 0 || s < 0.1) return "";
  const value = n / s;
  return decimal(value, Math.round(value * 10) < 100 ? 1 : 0) + (language() === "ko" ? "토큰/초" : " tok/s");
}

/** "41%" of a share between 0 and 1. */
export function percent(p) {
  if (!known(p)) return "";
  return p > 0 && p < 0.01 ? `<${percent(0.01)}` : intl(Intl.NumberFormat, { style: "percent" }).format(p);
}
