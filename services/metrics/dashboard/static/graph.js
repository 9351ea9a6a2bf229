/** A line of values as a picture. */

const SVG = "http://www.w3.org/2000/svg";

/** A line of values; where a value is null the line is interrupted. */
export function line(values, size = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `line ${size}`);
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return svg;
  const top = Math.max(...known);
  const bottom = Math.min(0, ...known);
  const x = (index) => ((index + 0.5) * 100) / values.length;
  const y = (value) => 28 - ((value - bottom) / (top - bottom || 1)) * 26;
  let run = [];
  const runs = [];
  values.forEach((value, index) => {
    if (value === null) { if (run.length) runs.push(run); run = []; } else run.push([x(index), y(value)]);
  });
  if (run.length) runs.push(run);
  for (const points of runs) {
    if (points.length === 1) points.push([points[0][0] + 0.8, points[0][1]]);
    const course = points.map(([a, b], index) => `${index ? "L" : "M"}${a.toFixed(2)} ${b.toFixed(2)}`).join("");
    const area = `${course}L${points.at(-1)[0].toFixed(2)} 28L${points[0][0].toFixed(2)} 28Z`;
    for (const [shape, name] of [[area, "area"], [course, "course"]]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", shape);
      path.setAttribute("class", name);
      svg.append(path);
    }
  }
  return svg;
}
