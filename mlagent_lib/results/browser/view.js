// The page at work: list, filters, the trajectory and step on show, keys, links.

const ROW = 62; // height of a row of the list in pixels, as in view.css
const SPARE = 6; // rows drawn beyond what is seen
const byId = (id) => document.getElementById(id);
const list = byId("list"), rows = byId("rows"), detail = byId("detail"), filters = byId("filters");
const hasAddress = location.protocol !== "about:"; // the frame in a notebook has no address to link to
const isOpen = { feedback: false, raw: false, script: false }; // what the reader unfolded stays unfolded
let shown = D.trajectories, chosen = null, current = 0, words = [];
const drawn = new Map();

function drawList() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  for (const [place, row] of drawn) {
    if (place < first || place >= last) { row.remove(); drawn.delete(place); }
  }
  for (let place = first; place < last; place++) {
    if (!drawn.has(place)) { drawn.set(place, listRow(place)); rows.append(drawn.get(place)); }
  }
}

function redrawList() {
  drawn.forEach((row) => row.remove());
  drawn.clear();
  rows.style.height = `${shown.length * ROW}px`;
  drawList();
  markChosen();
}

function listRow(place) {
  const trajectory = shown[place], scale = scaleOf(trajectory), start = startOf(trajectory), last = lastOf(trajectory);
  const gap = gapOf(trajectory);
  const marks = trajectory.steps.slice(0, 18).map(markOf).join("") + (trajectory.steps.length > 18 ? "…" : "");
  const share = gap === null ? betterThan(last, start, scale) : `· ${gap > -1 ? "" : "≤ "}${number(Math.round(100 * gap))} % of gap`;
  const scores = isNumber(start) ? `${number(start)} → ${number(last)} ${share}` : "no score";
  const said = trajectory.steps.map(outcomeOf).join(", ");
  const row = el("div", { class: "row", role: "option", id: `row-${place}`, "aria-selected": "false",
    "aria-setsize": shown.length, "aria-posinset": place + 1, title: trajectory.key, onclick: () => choose(trajectory) },
    el("span", { class: "name" }, trajectory.task),
    el("span", { class: "who mla-soft" }, policyOf(trajectory)),
    sparkline(trajectory),
    el("span", { class: "marks", role: "img", "aria-label": said ? `steps: ${said}` : "no steps" }, marks || "no steps"),
    el("span", { class: "scores" }, scores));
  row.style.transform = `translateY(${place * ROW}px)`;
  return row;
}

function choose(trajectory) {
  open(trajectory, 0);
  if (matchMedia("(max-width: 900px)").matches) detail.scrollIntoView(); // there it lies below the list
}

const placeOfChosen = () => shown.indexOf(chosen);

function markChosen() {
  const place = placeOfChosen();
  for (const [other, row] of drawn) row.setAttribute("aria-selected", String(other === place));
  if (drawn.has(place)) list.setAttribute("aria-activedescendant", `row-${place}`);
  else list.removeAttribute("aria-activedescendant");
}

function scrollToChosen() {
  const place = placeOfChosen();
  if (place < 0) return;
  const top = place * ROW, above = list.scrollTop - top, below = top + ROW - list.scrollTop - list.clientHeight;
  if (Math.max(above, below) > 2 * ROW) list.scrollTop = top + (ROW - list.clientHeight) / 2; // a jump: to the middle
  else if (above > 0) list.scrollTop = top;
  else if (below > 0) list.scrollTop += below;
  drawList();
}

// Filters

const valueOf = (id) => byId(id).value;
function bound(id) {
  const value = byId(id).valueAsNumber;
  return Number.isNaN(value) ? null : value;
}

function applyFilters() {
  const filter = { words: wordsOf(valueOf("words")), low: bound("low"), high: bound("high") };
  for (const name of ["policy", "task", "split", "file", "outcome"]) filter[name] = valueOf(name);
  words = filter.words;
  shown = D.trajectories.filter((trajectory) => passes(trajectory, filter)).sort(ORDERS[valueOf("order")]);
  const all = D.trajectories.length;
  byId("found").textContent = shown.length
    ? `${shown.length} of ${all} ${all === 1 ? "trajectory" : "trajectories"}`
    : `None of ${all} trajectories matches. Clear a filter to see some.`;
  list.scrollTop = 0;
  redrawList();
  drawCounts();
  if (chosen) drawStep();
}

function options(id, pairs, all) {
  byId(id).append(...(all ? [el("option", { value: "" }, all)] : []), ...pairs.map(([value, label]) => el("option", { value }, label)));
}

const unique = (values) => [...new Set(values)];

function setUpFilters() {
  const of_ = (name) => unique(D.trajectories.map((trajectory) => trajectory[name]));
  options("policy", Object.entries(D.policies), "all");
  options("task", of_("task").map((name) => [name, name]), "all");
  options("split", of_("split").map((name) => [name, name]), "all");
  options("file", of_("file").map((place) => [String(place), D.files[place]]), "all");
  const used = new Set(D.trajectories.flatMap((trajectory) => trajectory.steps.map(outcomeOf)));
  options("outcome", D.outcomes.flatMap((name, i) => (used.has(name) ? [[name, `${D.marks[i]} ${name}`]] : [])), "any");
  options("order", Object.keys(ORDERS).map((name) => [name, name]));
  options("count-by", ["policy", "task", "split", "file"].map((name) => [name, name]));
  filters.addEventListener("input", applyFilters);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(applyFilters)); // the fields are cleared after this event
  byId("count-by").addEventListener("change", drawCounts);
  byId("counts").addEventListener("toggle", drawCounts);
}

function drawCounts() {
  if (!byId("counts").open) return;
  const name = valueOf("count-by");
  const lines = [...countsBy(shown, name)].map(([key, line]) =>
    [key, line.trajectories, line.steps, ...line.outcomes, line.rewards ? Number((line.sum / line.rewards).toFixed(3)) : "–"]);
  byId("count-table").replaceChildren(
    table([name, "trajectories", "steps", ...D.outcomes.map((outcome, i) => `${D.marks[i]} ${outcome}`), "mean reward"], lines));
}

// The trajectory and the step on show

function open(trajectory, step) {
  chosen = trajectory;
  current = Math.min(Math.max(0, step), Math.max(0, trajectory.steps.length - 1));
  detail.replaceChildren(heading(trajectory), el("div", { id: "chart" }), el("div", { id: "steps" }), el("div", { id: "step" }));
  drawStep();
  scrollToChosen();
  markChosen();
}

function go(step) {
  if (!chosen || step < 0 || step >= chosen.steps.length) return;
  current = step;
  drawStep();
}

const linkTo = (trajectory, step) =>
  `#trajectory=${encodeURIComponent(trajectory.key).replaceAll("%2F", "/")}&step=${step}`;

function heading(trajectory) {
  const scale = scaleOf(trajectory), final = trajectory.final;
  const facts = [trajectory.split, scale.metric && `${scale.metric}, ${scale.better} is better`,
    `policy: ${policyOf(trajectory)}`, `seed ${trajectory.seed}`, D.files[trajectory.file]].filter(Boolean);
  // only the evaluation grades on the report labels
  const graded = isNumber(final.report_last) ? `report score ${number(final.report_start)} → ` +
    `${number(final.report_last)}, best by validation ${number(final.report_kept)}; ` : "";
  const end = `${graded}stopped: ${final.stop || "not said"}`;
  return el("header", {},
    el("h2", {}, trajectory.task, " ", el("small", {}, trajectory.key)),
    el("p", { class: "mla-soft" }, facts.join(" · ")),
    el("p", { class: "mla-path mla-soft" }, end),
    trajectory.ideas.length ? el("div", {}, "Ideas given:", el("ul", { class: "mla-ideas" }, ...trajectory.ideas.map((place) => el("li", {}, D.texts[place])))) : "");
}

function drawChart() {
  if (!chosen) return;
  const scale = scaleOf(chosen), width = Math.max(280, Math.min(760, byId("chart").clientWidth));
  byId("chart").replaceChildren(chart(chosen, chosen.steps.length ? current : null, width, go));
  const note = scale.labels === "report" ? "* measured on the report labels; the line of scores is on the feedback labels. " : "";
  const unknown = isNumber(scale.best) ? "" : "The best known score of this task is not recorded here. ";
  const beyond = byId("chart").querySelector(".beyond") ? "A triangle: a score beyond the chart, with its value. " : "";
  const unscored = chosen.steps.some((step) => !isNumber(of(step, "after"))) ? "A sign in place of a dot: this step has no score. " : "";
  byId("chart").append(
    el("p", { class: "mla-soft note" }, `Scores on the feedback labels${scale.better ? `; ${scale.better} is better` : ""}. ${unscored}${beyond}${note}${unknown}`));
}

function drawSteps() {
  const buttons = chosen.steps.map((step, i) => el("button", {
    type: "button", class: `mla-${outcomeOf(step)}`, "aria-current": i === current ? "step" : null,
    "aria-label": `Step ${of(step, "step")}, ${outcomeOf(step)}${isHit(step) ? ", has the words searched for" : ""}`, onclick: () => go(i) },
    `${of(step, "step")} ${markOf(step)}`, isHit(step) ? el("i", { title: "has the words searched for" }) : ""));
  const turn = (label, by, isOff) => el("button", { type: "button", class: "turn", disabled: isOff, onclick: () => go(current + by) }, label);
  const focused = byId("steps").contains(document.activeElement) ? document.activeElement : null;
  const wasTurn = focused && focused.classList.contains("turn") ? focused.textContent : null;
  const bar = el("div", { class: "bar", role: "group", "aria-label": "Steps: left and right arrow keys" },
    turn("◀ Previous", -1, current === 0), ...buttons, turn("Next ▶", 1, current >= chosen.steps.length - 1));
  byId("steps").replaceChildren(bar);
  if (!focused) return; // the buttons are new: give the focus back to its successor
  const same = [...bar.querySelectorAll(".turn")].find((button) => button.textContent === wasTurn && !button.disabled);
  (same || buttons[current]).focus();
}

const isHit = (step) => words.length > 0 && words.some((word) => stepMatches(step, word));

function drawStep() {
  drawChart();
  const steps = chosen.steps;
  if (hasAddress) history.replaceState(null, "", linkTo(chosen, steps.length ? of(steps[current], "step") : 0));
  if (!steps.length) {
    byId("step").replaceChildren(el("p", {}, "No step was taken in this trajectory."));
    return;
  }
  drawSteps();
  const step = steps[current];
  byId("step").replaceChildren(stepHead(step), replyFields(step), ...changes(step), ...foldedParts(step));
  highlight();
}

function stepHead(step) {
  const before = of(step, "before"), after = of(step, "after"), reward = of(step, "reward");
  const moved = isNumber(after) ? ` → ${number(after)} ${betterThan(after, before, scaleOf(chosen))}` : "";
  const metric = of(step, "metric");
  const notes = [isNumber(metric) ? `the script printed ${number(metric)}` : "", `${number(of(step, "seconds"), 3)} s`,
    of(step, "cached") ? "from the cache" : "", textOf(step, "tier")].filter(Boolean);
  return el("div", { class: "mla-head", role: "status" },
    el("h3", { class: "mla-title" }, `Step ${of(step, "step")} (of 0 to ${chosen.steps.length - 1}): ${textOf(step, "action") || "no action"}`), chip(step),
    el("span", { class: "mla-score" }, `score ${number(before)}${moved}`),
    el("span", { class: "mla-score" }, isNumber(reward) ? `reward ${number(reward, 3)}` : "no reward"),
    el("span", { class: "mla-soft" }, notes.join(" · ")),
    hasAddress ? el("a", { href: linkTo(chosen, of(step, "step")) }, "link to this step") : "");
}

function changes(step) {
  if (of(step, "diff") < 0) return [el("p", { class: "mla-soft" }, of(step, "script_after") < 0 ? "No script is recorded." : "The script stayed as it was.")];
  return [el("h4", {}, "Changed lines"), diffBlock(step)];
}

function foldedParts(step) {
  const feedback = textOf(step, "feedback"), count = feedback ? feedback.split("\n").length : 0;
  const fold = (name, title, make) => folded(title, make, isOpen[name], (state) => { isOpen[name] = state; highlight(); });
  const parts = [];
  if (count) parts.push(fold("feedback", `Feedback, ${count} ${count === 1 ? "line" : "lines"}`, () => plainBlock(feedback, "Feedback")));
  const raw = () => plainBlock(piecesOf(step).map(([, text]) => text).join(""), "Reply as it was generated");
  parts.push(fold("raw", "Reply as it was generated", raw));
  if (of(step, "script_after") >= 0) {
    const script = () => D.scripts[of(step, "script_after")].map((place) => D.lines[place]).join("\n");
    parts.push(fold("script", "Script after this step", () => el("pre", { class: "mla-pre flat", tabindex: "0", "aria-label": "Script" }, script())));
  }
  return parts;
}

// Marks the words searched for, where the browser can do it without touching the text.
function highlight() {
  if (!globalThis.Highlight) return;
  CSS.highlights.delete("words");
  if (!words.length) return;
  const ranges = [], walker = document.createTreeWalker(byId("step"), NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node && ranges.length < 2000; node = walker.nextNode()) {
    const text = node.data.toLowerCase();
    if (text.length !== node.data.length) continue; // a letter whose small form is longer: places would not fit
    for (const word of words) {
      for (let at = text.indexOf(word); at >= 0 && ranges.length < 2000; at = text.indexOf(word, at + word.length)) {
        const range = document.createRange();
        range.setStart(node, at);
        range.setEnd(node, at + word.length);
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("words", new Highlight(...ranges));
}

// Keys

const KEYS = {
  ArrowDown: (place) => place + 1, ArrowUp: (place) => place - 1, Home: () => 0, End: () => Infinity,
  PageDown: (place, page) => place + page, PageUp: (place, page) => place - page,
};

list.addEventListener("keydown", (event) => {
  const move = KEYS[event.key];
  if (!move || event.ctrlKey || event.altKey || event.metaKey || !shown.length) return;
  event.preventDefault();
  const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
  open(shown[Math.min(shown.length - 1, Math.max(0, move(placeOfChosen(), page)))], 0);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest("input, select, textarea, pre, .mla-scroll")) return; // there the keys move in the text
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    event.preventDefault();
    go(current + (event.key === "ArrowRight" ? 1 : -1));
  }
});

// Links: #trajectory=<name>&step=<number>

function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (!asked.has("trajectory")) return false;
  const found = D.trajectories.find((trajectory) => trajectory.key === asked.get("trajectory"));
  if (found) {
    open(found, Number.parseInt(asked.get("step") || "0", 10) || 0);
  } else {
    chosen = null;
    markChosen();
    detail.replaceChildren(el("p", { role: "alert" }, `The link names a trajectory that is not on this page: ${asked.get("trajectory")}`));
  }
  return true;
}

if (D.trajectories.length) {
  setUpFilters();
  applyFilters();
  if (!follow()) open(D.trajectories[0], 0);
  let asked = 0;
  list.addEventListener("scroll", () => { cancelAnimationFrame(asked); asked = requestAnimationFrame(() => { drawList(); markChosen(); }); });
  new ResizeObserver(() => { drawList(); drawChart(); }).observe(document.body);
  window.addEventListener("hashchange", follow);
}
requestAnimationFrame(() => setTimeout(() => performance.measure("mlagent:open", { start: 0 })));
