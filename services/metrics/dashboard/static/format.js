/** Numbers as people read them. */

const number = (value, digits) => value.toLocaleString(undefined, { maximumFractionDigits: digits });

/** A KPI's value with its unit: 0/0 is a dash. */
export function amount(kpi, value) {
  if (value === null || value === undefined) return "–";
  if (kpi.unit === "s" || (kpi.id === "backlog" && !Number.isInteger(value))) return duration(value);
  if (kpi.unit === "1") return `${number(value * 100, 1)} %`;
  if (kpi.unit === "money") {
    try {
      return value.toLocaleString(undefined, { style: "currency", currency: kpi.currency || "EUR" });
    } catch {
      return `${number(value, 2)} ${kpi.currency}`;
    }
  }
  return number(value, kpi.unit === "n" && Number.isInteger(value) ? 0 : 2);
}

function duration(seconds) {
  const size = Math.abs(seconds);
  if (size < 90) return `${number(seconds, size < 10 ? 1 : 0)} s`;
  if (size < 5400) return `${number(seconds / 60, 1)} min`;
  if (size < 129600) return `${number(seconds / 3600, 1)} h`;
  return `${number(seconds / 86400, 1)} d`;
}

/** How a KPI moved against the span before: an arrow, the change, and whether that is good. */
export function movement(kpi) {
  if (kpi.value === null || kpi.before === null) return { text: "", mood: "" };
  const change = kpi.value - kpi.before;
  if (change === 0) return { text: "→ as before", mood: "" };
  const better = kpi.direction === "up" ? change > 0 : kpi.direction === "down" ? change < 0 : null;
  const text = `${change > 0 ? "↑" : "↓"} from ${amount(kpi, kpi.before)}`;
  if (better === null) return { text, mood: "" };
  return { text: `${text}, ${better ? "better" : "worse"}`, mood: better ? "good" : "bad" };
}
