// Elements of the page. Text goes in as text nodes only: nothing that a policy or a script wrote is ever parsed.

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const markOf = (step) => D.marks[of(step, "outcome")];
const outcomeOf = (step) => D.outcomes[of(step, "outcome")];

function chip(step) {
  const reason = textOf(step, "reason");
  const text = `${markOf(step)} ${outcomeOf(step)}${reason ? `: ${reason}` : ""}`;
  return el("span", { class: `mla-chip mla-${outcomeOf(step)}` }, text);
}

// A line of scores, 84 by 24: where steps have no score the line goes on level. Hidden from screen readers:
// the row says its first and last score.
function sparkline(trajectory) {
  const points = levels(trajectory).map((point) => point.score);
  const drawn = svg("svg", { class: "spark", width: 84, height: 24, viewBox: "0 0 84 24", "aria-hidden": "true" });
  const known = points.filter(isNumber);
  if (!known.length) return drawn;
  const scale = scaleOf(trajectory);
  const reach = scale.labels === "feedback" && isNumber(points[0]) ? [points[0], scale.best] : known;
  const [low, high] = range([...known, ...reach], reach);
  const x = (i) => 3 + (points.length > 1 ? (i * 78) / (points.length - 1) : 39);
  const y = (value) => 21 - 18 * Math.min(1, Math.max(0, (value - low) / (high - low)));
  const path = points.map((value, i) => (isNumber(value) ? `${x(i).toFixed(1)},${y(value).toFixed(1)}` : null));
  if (isNumber(points[0])) {
    drawn.append(svg("line", { class: "base", x1: 0, x2: 84, y1: y(points[0]).toFixed(1), y2: y(points[0]).toFixed(1) }));
  }
  drawn.append(svg("polyline", { points: path.filter(Boolean).join(" ") }));
  const end = points.length - 1;
  if (isNumber(points[end])) drawn.append(svg("circle", { cx: x(end).toFixed(1), cy: y(points[end]).toFixed(1), r: 2.5 }));
  return drawn;
}

// The start and each step: its score, or that of before where the step was not scored.
function levels(trajectory) {
  let score = startOf(trajectory);
  const out = [{ score, scored: isNumber(score), step: null }];
  for (const step of trajectory.steps) {
    const after = of(step, "after");
    if (isNumber(after)) score = after;
    out.push({ score, scored: isNumber(after), step });
  }
  return out;
}

// Lowest and highest value to draw. A score far outside start and best (a ruined logloss) must not press the rest
// flat: it is drawn at the edge. `reach` is what is always inside.
function range(values, reach) {
  const inner = [Math.min(...reach), Math.max(...reach)];
  const far = 1.5 * (inner[1] - inner[0]) || Infinity;
  const kept = values.filter((value) => value >= inner[0] - far && value <= inner[1] + far);
  const low = Math.min(...kept), high = Math.max(...kept);
  const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  const below = values.some((value) => value < low), above = values.some((value) => value > high);
  return [low - (below ? 4 : 1) * room, high + (above ? 4 : 1) * room]; // room for the values at the edge
}

// Round numbers between two values, three to six of them.
function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const out = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) out.push(i * step);
  return out;
}

function chart(trajectory, current, width, choose) {
  const scale = scaleOf(trajectory), points = levels(trajectory), start = points[0].score;
  const known = points.map((point) => point.score).filter(isNumber);
  if (!known.length) return el("p", { class: "mla-soft" }, "No step of this trajectory has a score.");
  const hasBest = isNumber(scale.best);
  const references = [start, hasBest ? scale.best : null].filter(isNumber);
  const [low, high] = range([...known, ...references], references.length > 1 ? references : known);
  const height = 210, left = 52, right = 118, top = 12, bottom = 40;
  const x = (i) => left + 14 + (points.length > 1 ? (i * (width - left - right - 28)) / (points.length - 1) : 0);
  const y = (value) => top + (height - top - bottom) * (1 - Math.min(1, Math.max(0, (value - low) / (high - low))));
  const drawn = svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  drawn.setAttribute("aria-label", describe(trajectory, points));
  if (current !== null) {
    const wide = points.length > 1 ? Math.min(26, x(1) - x(0)) : 26;
    drawn.append(svg("rect", { class: "now", x: x(current + 1) - wide / 2, y: top - 6, width: wide, height: height - top - bottom + 12 }));
  }
  for (const value of ticks(low, high)) {
    drawn.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    drawn.append(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  drawn.append(...referenceLines({ start, best: hasBest ? scale.best : null, labels: scale.labels }, y, left, width - right));
  drawn.append(svg("polyline", { class: "line", points: points.flatMap((p, i) => (isNumber(p.score) ? [`${x(i)},${y(p.score)}`] : [])).join(" ") }));
  points.forEach((point, i) => drawn.append(...pointMarks(point, x(i), isNumber(point.score) ? y(point.score) : height - bottom, [low, high])));
  const every = Math.max(1, Math.ceil(points.length / Math.max(4, (width - left - right) / 34)));
  points.forEach((point, i) => {
    if (i % every === 0 || i - 1 === current) {
      const label = i === 0 ? "start" : String(of(point.step, "step"));
      drawn.append(svg("text", { x: x(i), y: height - bottom + 20, "text-anchor": "middle", class: i - 1 === current ? "chosen" : "" }, label));
    }
    if (i > 0) {
      const half = points.length > 1 ? (x(1) - x(0)) / 2 : 20;
      const hit = svg("rect", { class: "hit", x: x(i) - half, y: 0, width: 2 * half, height }, svg("title", {}, sayPoint(point)));
      hit.addEventListener("click", () => choose(i - 1));
      drawn.append(hit);
    }
  });
  drawn.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle", class: "soft" }, "step"));
  return drawn;
}

function referenceLines({ start, best, labels }, y, left, right) {
  const out = [], lines = [];
  if (isNumber(start)) lines.push(["start", start, "start", ""]);
  if (isNumber(best)) lines.push(["best", best, "best known", labels === "report" ? " *" : ""]);
  lines.sort((a, b) => y(a[1]) - y(b[1]));
  let under = -Infinity;
  for (const [kind, value, label, star] of lines) {
    const at = Math.max(y(value) - 2, under);
    under = at + 32; // two lines of text
    out.push(svg("line", { class: kind, x1: left, x2: right, y1: y(value), y2: y(value) }));
    out.push(svg("text", { x: right + 6, y: at + 2 }, label + star));
    out.push(svg("text", { x: right + 6, y: at + 16 }, number(value)));
  }
  return out;
}

function pointMarks({ score, scored, step }, x, y, [low, high]) {
  if (!step) return isNumber(score) ? [svg("circle", { class: "dot", cx: x, cy: y, r: 3.5 })] : [];
  if (!scored) return [svg("text", { class: "mark", x, y: y < 24 ? y + 16 : y - 6, "text-anchor": "middle" }, markOf(step))];
  if (score >= low && score <= high) return [svg("circle", { class: "dot", cx: x, cy: y, r: 4.5 })];
  const up = score > high, tip = up ? -6 : 6;
  return [
    svg("path", { class: "dot beyond", d: `M${x - 6},${y} L${x + 6},${y} L${x},${y + 1.6 * tip} Z` }),
    svg("text", { x, y: y + (up ? 16 : -10), "text-anchor": "middle" }, number(score, 3)),
  ];
}

const sayPoint = ({ score, scored, step }) =>
  `step ${of(step, "step")}: ${outcomeOf(step)}, ${scored ? `score ${number(score)}` : "no score"}`;

function describe(trajectory, points) {
  const scale = scaleOf(trajectory);
  const parts = points.slice(1).map(sayPoint);
  const best = isNumber(scale.best) ? `, best known ${number(scale.best)}` : "";
  return `Score over the steps. Start ${number(points[0].score)}${best}. ${parts.join("; ")}.`;
}

const MAX_DIFF_LINES = 200;

function diffBlock(step) {
  const lines = diffLines(step);
  const block = el("pre", { class: "mla-pre diff", tabindex: "0", "aria-label": "Changed lines, + added, - removed" });
  const add = (from, to) => block.append(...lines.slice(from, to).map(diffLine));
  add(0, MAX_DIFF_LINES);
  if (lines.length > MAX_DIFF_LINES) {
    const more = el("button", { type: "button", onclick: () => { more.remove(); add(MAX_DIFF_LINES); } },
      `Show ${lines.length - MAX_DIFF_LINES} lines more`);
    block.append(more);
  }
  return block;
}

function diffLine(line) {
  if (line.skipped) return el("span", { class: "mla-l mla-hunk" }, `⋯ ${line.skipped} same ${line.skipped === 1 ? "line" : "lines"}`);
  const kind = { "+": " mla-add", "-": " mla-del", " ": "" }[line.sign];
  const places = `${String(line.old ?? "").padStart(4)} ${String(line.now ?? "").padStart(4)} `;
  const [from, to] = line.middle || [0, 0];
  const parts = [line.text.slice(0, from), to > from ? el("b", {}, line.text.slice(from, to)) : "", line.text.slice(to)];
  return el("span", { class: `mla-l${kind}` }, el("span", { class: "places", "aria-hidden": "true" }, places), `${line.sign} `, ...parts);
}

// A folded part, made when it is opened for the first time.
function folded(title, make, isOpen, remember) {
  const part = el("details", {}, el("summary", {}, title));
  const fill = () => { if (part.open && part.children.length === 1) part.append(make()); };
  part.addEventListener("toggle", () => { fill(); remember(part.open); });
  part.open = isOpen;
  fill();
  return part;
}

const plainBlock = (text, label) => el("pre", { class: "mla-pre mla-wrap flat", tabindex: "0", "aria-label": label }, text);

function argumentsOf(text) {
  let values = null;
  try {
    values = JSON.parse(text);
  } catch {
    return text; // not JSON, which may be why the reply is invalid: shown as it is
  }
  if (values === null || typeof values !== "object" || Array.isArray(values)) return text;
  const say = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return el("dl", { class: "mla-args" }, ...Object.entries(values).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, say(value))]));
}

function replyFields(step) {
  const pieces = piecesOf(step), named = pieces.filter(([name, text]) => name || text.trim());
  if (!named.some(([name]) => name)) {
    const text = pieces.map(([, piece]) => piece).join("");
    return plainBlock(text.trim() ? text : "(empty reply)", "Reply without any field");
  }
  return el("dl", { class: "mla-fields" }, ...named.flatMap(([name, text]) => {
    const value = (name ? text.slice(text.indexOf(":") + 1) : text).trim();
    return [el("dt", {}, name || "(before the fields)"), el("dd", {}, name === "Action Input" ? argumentsOf(value) : value)];
  }));
}

function table(head, rows) {
  const cell = (name, value, extra = {}) => el(name, { ...extra, class: typeof value === "number" ? "mla-n" : null },
    typeof value === "number" ? number(value, 6) : value);
  return el("table", { class: "mla-table" },
    el("thead", {}, el("tr", {}, ...head.map((name, i) => el("th", { scope: "col", class: i ? "mla-n" : null }, name)))),
    el("tbody", {}, ...rows.map(([first, ...rest]) => el("tr", {}, cell("th", first, { scope: "row" }), ...rest.map((value) => cell("td", value))))));
}
