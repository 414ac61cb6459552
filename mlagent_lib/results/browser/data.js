// The data of the page: tables shared by all steps, search and filters. No element of the page is touched here.

const D = JSON.parse(document.getElementById("data").textContent);
const COLUMN = Object.fromEntries(D.columns.map((name, i) => [name, i]));
const OUTCOME = Object.fromEntries(D.outcomes.map((name, i) => [name, i]));
const isNumber = (value) => typeof value === "number";
const of = (step, name) => step[COLUMN[name]];
const textOf = (step, name) => D.texts[of(step, name)];
const scaleOf = (trajectory) => D.scales[trajectory.task] || {};
const policyOf = (trajectory) => D.policies[trajectory.policy];

const number = (value, digits = 4) =>
  isNumber(value) ? String(Number(value.toPrecision(digits))).replace("-", "−") : "–";

// Score after each step: null where the step was not scored.
const scoresOf = (trajectory) => trajectory.steps.map((step) => of(step, "after"));
const startOf = (trajectory) => (trajectory.steps.length ? of(trajectory.steps[0], "before") : null);

// The last score there is: a step without one leaves the score where it was.
function lastOf(trajectory) {
  const scores = scoresOf(trajectory).filter(isNumber);
  return scores.length ? scores[scores.length - 1] : startOf(trajectory);
}

function betterThan(after, before, scale) {
  if (!isNumber(before) || !isNumber(after)) return "";
  if (after === before) return "= same";
  const arrow = after > before ? "▲" : "▼";
  if (!scale.better) return `${arrow} ${after > before ? "up" : "down"}`;
  return `${arrow} ${(after > before) === (scale.better === "higher") ? "better" : "worse"}`;
}

// Share of the way from the start to the best known score, bounded below at -1 as everywhere; null where the best
// known score was measured on other labels.
function gapOf(trajectory) {
  const scale = scaleOf(trajectory), start = startOf(trajectory), last = lastOf(trajectory);
  if (scale.labels !== "feedback" || !isNumber(start) || !isNumber(last) || scale.best === start) return null;
  return Math.max(-1, (last - start) / (scale.best - start));
}

function bestReward(trajectory) {
  const rewards = trajectory.steps.map((step) => of(step, "reward")).filter(isNumber);
  return rewards.length ? Math.max(...rewards) : null;
}

// Pieces of a reply: [name of the field or "", its text].
function piecesOf(step) {
  const flat = D.replies[of(step, "reply")], pieces = [];
  for (let i = 0; i < flat.length; i += 2) pieces.push([flat[i] < 0 ? "" : D.fields[flat[i]], D.texts[flat[i + 1]]]);
  return pieces;
}

// Lines of a diff: {sign, text, old, now} or {skipped: number of lines}; `context` unchanged lines around changes.
function diffLines(step, context = 3) {
  const before = D.scripts[of(step, "script")], after = D.scripts[of(step, "script_after")];
  const flat = of(step, "diff") < 0 ? [] : D.diffs[of(step, "diff")];
  const all = [];
  let old = 0, now = 0;
  const same = (until) => {
    for (; old < until; old++, now++) all.push({ sign: " ", text: D.lines[before[old]], old: old + 1, now: now + 1 });
  };
  for (let i = 0; i < flat.length; i += 4) {
    same(flat[i]);
    const first = all.length;
    for (; old < flat[i + 1]; old++) all.push({ sign: "-", text: D.lines[before[old]], old: old + 1 });
    const half = all.length;
    for (; now < flat[i + 3]; now++) all.push({ sign: "+", text: D.lines[after[now]], now: now + 1 });
    if (half - first === all.length - half) for (let k = 0; k < half - first; k++) markMiddle(all[first + k], all[half + k]);
  }
  same(before.length);
  const keep = new Uint8Array(all.length);
  all.forEach((line, i) => {
    if (line.sign !== " ") keep.fill(1, Math.max(0, i - context), i + context + 1);
  });
  const out = [];
  for (let i = 0; i < all.length; i++) {
    if (keep[i]) out.push(all[i]);
    else if (out.length && out[out.length - 1].skipped) out[out.length - 1].skipped++;
    else out.push({ skipped: 1 });
  }
  return out;
}

// A line that replaces another one: remember what differs, from the first to the last sign that is not the same.
function markMiddle(removed, added) {
  const a = removed.text, b = added.text, shorter = Math.min(a.length, b.length);
  let head = 0, tail = 0;
  while (head < shorter && a[head] === b[head]) head++;
  while (tail < shorter - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const isWord = (text, at) => /\w/.test(text[at] || "");
  const cutsWord = (text, at) => isWord(text, at - 1) && isWord(text, at);
  while (head > 0 && (cutsWord(a, head) || cutsWord(b, head))) head--;
  while (tail > 0 && (cutsWord(a, a.length - tail) || cutsWord(b, b.length - tail))) tail--;
  if (head + tail < shorter / 3) return; // hardly anything in common: the whole line is the news
  removed.middle = [head, a.length - tail];
  added.middle = [head, b.length - tail];
}

// Search: every word must be somewhere in the trajectory. Each shared string is looked at once a word.
const wordsOf = (query) =>
  [...query.toLowerCase().matchAll(/"([^"]+)"|[^\s"]+/g)].map((found) => found[1] || found[0]);
let lowered = null;
const flags = new Map();

function flagsOf(word) {
  if (!lowered) lowered = { texts: D.texts.map((t) => t.toLowerCase()), lines: D.lines.map((t) => t.toLowerCase()) };
  if (!flags.has(word)) {
    if (flags.size > 32) flags.clear();
    const texts = Uint8Array.from(lowered.texts, (text) => text.includes(word));
    const lines = Uint8Array.from(lowered.lines, (text) => text.includes(word));
    const replies = Uint8Array.from(D.replies, (flat) => flat.some((place, i) => i % 2 === 1 && texts[place]));
    flags.set(word, { texts, lines, replies });
  }
  return flags.get(word);
}

function changesMatch(step, lines) {
  if (of(step, "diff") < 0) return false;
  const flat = D.diffs[of(step, "diff")];
  const before = D.scripts[of(step, "script")], after = D.scripts[of(step, "script_after")];
  for (let i = 0; i < flat.length; i += 4) {
    for (let k = flat[i]; k < flat[i + 1]; k++) if (lines[before[k]]) return true;
    for (let k = flat[i + 2]; k < flat[i + 3]; k++) if (lines[after[k]]) return true;
  }
  return false;
}

function stepMatches(step, word) {
  const { texts, lines, replies } = flagsOf(word);
  return Boolean(
    replies[of(step, "reply")] || texts[of(step, "feedback")] || texts[of(step, "action")] ||
    texts[of(step, "reason")] || changesMatch(step, lines));
}

function hasWord(trajectory, word) {
  const names = [trajectory.key, trajectory.task, trajectory.policy, policyOf(trajectory)];
  return names.some((name) => name.toLowerCase().includes(word)) ||
    trajectory.ideas.some((place) => flagsOf(word).texts[place]) ||
    trajectory.steps.some((step) => stepMatches(step, word));
}

function passes(trajectory, filter) {
  for (const name of ["policy", "task", "split"]) if (filter[name] && trajectory[name] !== filter[name]) return false;
  if (filter.file !== "" && trajectory.file !== Number(filter.file)) return false;
  const asksStep = filter.outcome || filter.low !== null || filter.high !== null;
  if (asksStep && !trajectory.steps.some((step) => stepPasses(step, filter))) return false;
  return filter.words.every((word) => hasWord(trajectory, word));
}

function stepPasses(step, filter) {
  const reward = of(step, "reward");
  if (filter.outcome && of(step, "outcome") !== OUTCOME[filter.outcome]) return false;
  if (filter.low !== null && !(isNumber(reward) && reward >= filter.low)) return false;
  return filter.high === null || (isNumber(reward) && reward <= filter.high);
}

// Missing values come last; two of them differ by NaN, and then the place decides.
const descending = (value) => (a, b) => (value(b) ?? -Infinity) - (value(a) ?? -Infinity) || a.place - b.place;
const ORDERS = {
  "as in the files": (a, b) => a.place - b.place,
  "gap closed, largest first": descending(gapOf),
  "gap closed, smallest first": (a, b) => (gapOf(a) ?? Infinity) - (gapOf(b) ?? Infinity) || a.place - b.place,
  "best reward of a step": descending(bestReward),
  "number of steps": descending((trajectory) => trajectory.steps.length),
};

D.trajectories.forEach((trajectory, place) => { trajectory.place = place; });

function countsBy(trajectories, name) {
  const lines = new Map();
  for (const trajectory of trajectories) {
    const key = name === "file" ? D.files[trajectory.file] : name === "policy" ? policyOf(trajectory) : trajectory[name];
    if (!lines.has(key)) lines.set(key, { trajectories: 0, steps: 0, outcomes: D.outcomes.map(() => 0), sum: 0, rewards: 0 });
    const line = lines.get(key);
    line.trajectories++;
    for (const step of trajectory.steps) {
      line.steps++;
      line.outcomes[of(step, "outcome")]++;
      if (isNumber(of(step, "reward"))) { line.rewards++; line.sum += of(step, "reward"); }
    }
  }
  return lines;
}
