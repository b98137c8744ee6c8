// What fits: a question for each way to train, asked again whenever something changes.
import { bytes, call, count, drawn, element, quoted, seconds, usd } from "./service.js";

const LENGTHS = [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384];
// The patterns of the first three ship with autopeft; the others may have to be traced first.
const AT_HAND = ["full", "lora", "qlora"];
const WAYS = [...AT_HAND, "dora", "ia3"];
const PARTS = ["weights", "quantization", "adapter", "optimizer", "activations", "logits", "gradients"]; // the rest is grey
const usable = new Map();
const get = (id) => document.getElementById(id);
let running = null;
let explaining = null;

export function asked() {
  const gpu = get("gpu").value;
  return {
    model: get("model").value.trim(),
    ...(gpu ? { gpu } : { gpu_mem: `${get("memory").value}GB` }),
    seq_len: LENGTHS[get("length").value],
    batch_size: Number(get("batch").value),
    gradient_checkpointing: get("checkpointing").checked,
    ...(get("examples").value ? { examples: Number(get("examples").value) } : {}),
  };
}

export function startPlanning() {
  for (const way of WAYS) get("way").append(element("option", { value: way }, way));
  get("way").value = "qlora";
  for (const id of ["memory", "length", "batch", "examples", "checkpointing", "gpu"]) get(id).addEventListener("input", ask);
  get("model").addEventListener("input", () => { suggest(); ask(); });
  get("ask").addEventListener("submit", (event) => event.preventDefault());
  get("way").addEventListener("input", outdate);
  get("compare").addEventListener("submit", (event) => { event.preventDefault(); compare(); });
  suggest();
  call("GET", "gpus?limit=1000").then((page) => {
    for (const device of page.items) {
      if (device.device === "cpu") continue;
      usable.set(device.name, device.usable_bytes);
      get("gpu").append(element("option", { value: device.name }, `${device.name} (${bytes(device.usable_bytes)})`));
    }
    get("gpu").value = "l4";
    ask();
  }).catch(fail);
}

function fail(error) {
  if (error.name === "AbortError") return;
  get("fits-status").textContent = error.message;
  for (const name of ["fits-table", "fits-status"]) get(name).classList.remove("stale");
}

async function suggest() {
  const words = get("model").value.trim();
  try {
    const page = await call("GET", `models?limit=30&q=${encodeURIComponent(words)}`);
    get("models").replaceChildren(...page.items.map((model) => element("option", { value: model.name })));
  } catch (error) { fail(error); }
}

function labels() {
  get("memory-field").hidden = get("gpu").value !== "";
  get("memory-value").textContent = `${get("memory").value} GB`;
  get("length-value").textContent = count(LENGTHS[get("length").value]);
  get("length").setAttribute("aria-valuetext", `${LENGTHS[get("length").value]} tokens`);
  get("batch-value").textContent = get("batch").value;
  const question = asked();
  const words = ["autopeft", "estimate", question.model, "--method", "qlora"];
  if (question.gpu) words.push("--gpu", question.gpu); else words.push("--gpu-mem", question.gpu_mem);
  words.push("--batch-size", question.batch_size, "--seq-len", question.seq_len);
  if (question.gradient_checkpointing) words.push("--gradient-checkpointing");
  if (question.examples) words.push("--examples", question.examples);
  get("command").textContent = words.map((word) => quoted(String(word))).join(" ");
  outdate();
}

// What was compared before stands there until it is compared again, and is marked.
function outdate() {
  const table = get("compare-table");
  if (table.hidden || table.dataset.compared === JSON.stringify(compared())) return;
  table.classList.add("stale");
  get("compare-status").textContent = "What is compared below was asked otherwise: compare again.";
}

function compared() {
  const { model, seq_len, batch_size, gradient_checkpointing, examples } = asked();
  return { models: [model], ways: [get("way").value], seq_len, batch_size, gradient_checkpointing, examples };
}

async function ask() {
  labels();
  running?.abort();
  explaining?.abort();
  running = new AbortController();
  const { signal } = running;
  const began = performance.now();
  for (const name of ["fits-table", "fits-status"]) get(name).classList.add("stale");
  const questions = WAYS.map((method) => ({ ...asked(), method }));
  try {
    const part = (from, to) => call("POST", "estimates", { questions: questions.slice(from, to), batches: false }, { signal });
    const first = await part(0, AT_HAND.length);
    const pending = questions.slice(AT_HAND.length).map(() => ({ status: "pending", reason: "being traced for the first time, which takes up to a minute" }));
    const late = setTimeout(() => show([...first.answers, ...pending]), 150);
    signal.addEventListener("abort", () => clearTimeout(late));
    const rest = await part(AT_HAND.length);
    clearTimeout(late);
    show([...first.answers, ...rest.answers]);
    get("fits-table").dataset.milliseconds = String(Math.round(performance.now() - began));
    get("fits-table").dataset.shown = JSON.stringify(asked());
    await quiet(signal);
    const { answers } = await call("POST", "estimates", { questions, batches: true }, { signal });
    show(answers);
    await explain(questions, answers);
  } catch (error) { fail(error); }
}

// Only once the sliders rest is it worth to look for the largest batches and for ways out.
const quiet = (signal) => new Promise((resolve, reject) => {
  setTimeout(resolve, 300);
  signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
});

async function explain(questions, answers) {
  explaining = new AbortController();
  for (const [place, answer] of answers.entries()) {
    if (answer.fits !== false) continue;
    const whole = await call("POST", "estimate", questions[place], { signal: explaining.signal });
    answers[place] = whole;
    show(answers);
  }
  get("fits-table").dataset.explained = JSON.stringify(asked());
}

function show(answers) {
  const most = Math.max(1, ...answers.map((answer) => (answer.memory ? answer.memory.high_bytes : 0)));
  const limit = limitOf();
  const scale = Math.max(most, limit || 0) * 1.02;
  const rows = answers.map((answer, place) => row(WAYS[place], answer, scale, limit));
  get("fits-table").tBodies[0].replaceChildren(...rows);
  for (const name of ["fits-table", "fits-status"]) get(name).classList.remove("stale");
  const fitting = answers.filter((answer) => answer.fits).length;
  const known = answers.filter((answer) => answer.status !== "pending");
  const all = known.every((answer) => answer.status !== "ok");
  const more = known.length < answers.length ? " so far" : "";
  get("fits-status").textContent = all ? known[0].reason : `${fitting} of ${known.length} ways fit${more}.`;
  legend(answers);
}

function limitOf() {
  return usable.get(get("gpu").value) ?? Number(get("memory").value) * 1e9;
}

function row(way, answer, scale, limit) {
  const head = element("th", { scope: "row" }, way);
  if (answer.status !== "ok") {
    return element("tr", {}, head, element("td", { colspan: "6" }, answer.reason || "cannot be told"));
  }
  const fits = answer.fits === true ? ["yes", "yes"] : answer.fits === false ? ["no", "no"] : ["", "cannot be told"];
  const why = [answer.fits === false ? answer.reason : "", answer.way_out ? `Would fit with ${answer.way_out}.` : ""];
  const run = runOf(answer, Number(get("examples").value), Number(get("batch").value));
  return element("tr", { "data-way": way, "data-fits": String(answer.fits) }, head,
    element("td", { class: "memory" }, bar(way, answer.memory, scale, limit), element("small", {}, `${bytes(answer.memory.device_peak_bytes)}, up to ${bytes(answer.memory.high_bytes + answer.memory.device_peak_bytes - answer.memory.reserved_peak_bytes)}`)),
    element("td", { "data-name": "Fits" }, element("span", { class: fits[0] }, fits[1])),
    named("Largest batch", answer.max_batch_size === null ? "" : count(answer.max_batch_size)),
    named("A run", run.time),
    named("Cost", run.cost),
    element("td", {}, why.filter(Boolean).join(". ")));
}

const named = (name, text) => element("td", { class: "number", "data-name": name }, text);

// What a run takes; a dash where there can be none, so that nobody compares with it.
export function runOf(answer, examples, batch) {
  if (answer.fits === false) return { time: "–", cost: "–" };
  const span = answer.time && examples ? answer.time.step_seconds * Math.ceil(examples / batch) : null;
  return { time: seconds(span), cost: usd(answer.cost?.usd) };
}

// The parts of a memory, each with its size. Full fine-tuning has no adapter: what it trains are the weights.
export function partsOf(way, memory) {
  const { adapter = 0, weights = 0, ...others } = memory.parts;
  return Object.entries(way === "full" ? { weights: weights + adapter, ...others } : memory.parts);
}

function bar(way, memory, scale, limit) {
  const svg = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  let left = 0;
  const context = memory.device_peak_bytes - memory.allocated_peak_bytes;
  for (const [name, size] of [...partsOf(way, memory), ["allocator and context", context]]) {
    if (size <= 0) continue;
    const width = (100 * size) / scale;
    svg.append(drawn("rect", { x: left, y: 0, width, height: 10, class: kind(name) }));
    left += width;
  }
  if (limit) svg.append(drawn("line", { x1: (100 * limit) / scale, x2: (100 * limit) / scale, y1: 0, y2: 10, class: "limit", "vector-effect": "non-scaling-stroke" }));
  return svg;
}

const kind = (name) => `part-${PARTS.includes(name) ? PARTS.indexOf(name) : PARTS.length}`;

function legend(answers) {
  const names = new Set(answers.flatMap((answer, place) => (answer.memory ? partsOf(WAYS[place], answer.memory).filter(([, size]) => size > 2 ** 20).map(([name]) => name) : [])));
  get("legend").replaceChildren(...[...names].map((name) => {
    const sign = drawn("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    sign.append(drawn("rect", { width: 10, height: 10, class: kind(name) }));
    return element("li", {}, sign, name);
  }));
}

async function compare() {
  const body = compared();
  get("compare-status").textContent = "Comparing; what was never asked before takes up to a minute.";
  try {
    const made = await call("POST", "capacity", body);
    const cells = [...made.cells].sort((one, other) => (one.cost?.usd ?? Infinity) - (other.cost?.usd ?? Infinity) || (one.hours ?? Infinity) - (other.hours ?? Infinity));
    get("compare-table").tBodies[0].replaceChildren(...cells.map((cell) => element("tr", {},
      element("th", { scope: "row" }, cell.gpu),
      named("Rows at once", cell.batch == null ? "" : count(cell.batch)),
      named("Memory", cell.memory ? bytes(cell.memory.device_peak_bytes) : ""),
      named("Time", cell.hours == null ? "" : seconds(3600 * cell.hours)),
      named("Cost", cell.cost ? usd(cell.cost.usd) : ""),
      element("td", {}, cell.fits === false ? cell.reason || "does not fit" : cell.on_front ? "nothing is both faster and cheaper" : cell.cost_reason || ""))));
    get("compare-table").hidden = false;
    get("compare-table").classList.remove("stale");
    get("compare-table").dataset.compared = JSON.stringify(body);
    get("compare-status").textContent = `${cells.filter((cell) => cell.fits).length} of ${cells.length} devices can train ${body.models[0]} by ${body.ways[0]}, batch ${count(body.batch_size)} of ${count(body.seq_len)} tokens.`;
    outdate();
  } catch (error) { get("compare-status").textContent = error.message; }
}
