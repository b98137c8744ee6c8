// Searches: start one, watch it, take its report and adapter.
import { call, count, drawn, element, quoted, seconds } from "./service.js";

const get = (id) => document.getElementById(id);
const ENDED = ["done", "failed", "stopped"];
const NO_FLAG = ["context", "messages", "split"]; // columns that only a configuration file names
const OF_A_STUDY = { export: "export", conclude: "conclusion" }; // jobs that work on what another has made
let stream = null;
let shown = null;
let recited = 0; // recipes that were asked for; only the last one's answer is shown

export function startTraining() {
  get("job").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  get("live-stop").addEventListener("click", () => act("stop"));
  get("live-conclude").addEventListener("click", () => act("conclude"));
  get("live-resume").addEventListener("click", () => act("resume", { time: "10min" }));
  get("recipe-form").addEventListener("submit", (event) => { event.preventDefault(); recite(); });
  setInterval(() => { if (shown && shown.began !== null) schedule(); }, 1000);
  suggest();
  list();
}

async function suggest() { // the service's own models come first
  const page = await call("GET", "models?limit=30").catch(() => ({ items: [] }));
  get("trainable").replaceChildren(...page.items.map((model) => element("option", { value: model.name })));
}

async function submit() {
  const button = get("job").querySelector("button[type=submit]");
  button.disabled = true;
  get("job-problem").textContent = "";
  try {
    const budget = { time: get("time").value, ...(get("trials").value ? { trials: Number(get("trials").value) } : {}) };
    const body = { kind: "run", budget, ...(get("rows").value ? { train_rows: Number(get("rows").value) } : {}) };
    if (new FormData(get("job")).get("source") === "demo") body.demo = "classification";
    else {
      body.data = await upload();
      body.model = get("job-model").value.trim() || get("model").value.trim();
    }
    const job = await call("POST", "jobs", body, { headers: { "idempotency-key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` } });
    await list();
    follow(job);
    get("live-title").focus();
  } catch (error) { get("job-problem").textContent = error.message; }
  button.disabled = false;
}

async function upload() {
  const file = get("file").files[0];
  if (!file) throw new Error("choose a file first, or take the demo.");
  get("file-facts").textContent = "Reading ...";
  try {
    const made = await call("POST", `data?name=${encodeURIComponent(file.name)}`, file);
    const rows = Object.entries(made.facts.rows).map(([name, number]) => `${count(number)} ${name}`).join(", ");
    get("file-facts").textContent = `${made.facts.task}: ${rows} rows.`;
    return made.id;
  } catch (error) { get("file-facts").textContent = ""; throw error; }
}

async function list() {
  const [page, files] = await Promise.all([call("GET", "jobs?limit=20"), call("GET", "data").catch(() => [])]);
  const names = new Map(files.map((file) => [file.id, file.name]));
  get("jobs").tBodies[0].replaceChildren(...page.items.map((job) => {
    const open = element("button", { type: "button" }, job.id.slice(0, 12));
    open.addEventListener("click", () => { follow(job); get("live-title").focus(); });
    const made = OF_A_STUDY[job.kind] ? `${OF_A_STUDY[job.kind]} of ${job.request.study.slice(0, 12)}` : null;
    const model = (job.request.model || "").split("/").pop();
    const what = made || (job.request.demo ? `demo ${job.request.demo}` : `${model} on ${names.get(job.request.data) || "other rows"}`);
    const over = ENDED.includes(job.state) && !OF_A_STUDY[job.kind] && job.spent > job.seconds;
    const time = OF_A_STUDY[job.kind] ? seconds(job.spent) : `${seconds(job.spent)} of ${seconds(job.seconds)}${over ? ", over" : ""}`;
    return element("tr", {}, element("th", { scope: "row" }, open), cell("What", what || ""), cell("State", outcome(job)), cell("Time", time, "number"));
  }));
}

async function act(what, body) {
  if (!shown) return;
  const button = get(`live-${what}`);
  button.disabled = true;
  get("live-problem").textContent = "";
  try {
    const job = await call("POST", `jobs/${shown.job.id}/${what}`, body);
    if (what !== "stop") follow(job);
  } catch (error) { get("live-problem").textContent = error.message; }
  button.disabled = false;
}

function follow(job) {
  stream?.close();
  shown = { job, trials: new Map(), metric: null, best: null, time: job.seconds, began: null, what: "", whole: false };
  get("live").hidden = false;
  get("live").dataset.job = job.id;
  get("live-title").textContent = `${{ export: "Export", conclude: "Conclusion" }[job.kind] || "Search"} ${job.id.slice(0, 12)}`;
  command(job);
  recited += 1;
  get("recipe-text").hidden = true;
  get("recipe-status").textContent = "";
  get("live-problem").textContent = "";
  paint();
  stream = new EventSource(`api/v1/jobs/${job.id}/events`);
  stream.onmessage = (message) => { take(JSON.parse(message.data)); schedule(); };
}

// A job says what came of it, or why it failed; the whole of a long reason stands where the job is opened.
const outcome = (job) => (job.reason && job.state !== "stopped" ? element("span", {}, job.state, element("small", { class: "why", title: job.reason }, job.reason)) : job.state);

const cell = (name, text, kind = null) => element("td", { class: kind, "data-name": name }, text);

let due = 0;
function schedule() { if (!due) due = requestAnimationFrame(() => { due = 0; paint(); }); }

function take(event) {
  const trial = (number) => {
    if (!shown.trials.has(number)) shown.trials.set(number, { number, label: "", state: "", rows: 0, score: null, curve: [], trainable: null });
    return shown.trials.get(number);
  };
  if (event.event === "state") {
    Object.assign(shown.job, event);
    shown.began = event.state === "running" ? performance.now() : null;
    shown.whole = ENDED.includes(event.state);
    if (shown.whole) stream.close();
    list();
  } else if (event.event === "progress") shown.what = event.total > 1 ? `${event.what} ${event.done}/${event.total}` : event.what;
  else if (event.event === "study") { shown.metric = event.metric; shown.what = `${event.fits} configurations fit, ${event.rejected} do not`; }
  else if (event.event === "trial-started") Object.assign(trial(event.number), { label: event.label, state: "running", trainable: event.trainable });
  else if (event.event === "trial-reported") {
    const one = trial(event.number);
    if (!one.curve.some(([rows]) => rows === event.rows)) one.curve.push([event.rows, event.score]);
    Object.assign(one, { rows: event.rows, score: event.score });
  } else if (event.event === "study-finished") shown.best = event.best; // luck taken off, where something was repeated
  else if (event.event === "trial-paused") trial(event.number).state = "set aside";
  else if (event.event === "trial-finished") Object.assign(trial(event.number), { label: event.label, state: event.state, score: event.score ?? trial(event.number).score, trainable: event.trainable ?? trial(event.number).trainable });
}

function paint() {
  const { job } = shown;
  const ended = ENDED.includes(job.state);
  const ofAStudy = Boolean(OF_A_STUDY[job.kind]);
  const some = [...shown.trials.values()].some((trial) => trial.state === "complete");
  const empty = shown.whole && job.state === "done" && !ofAStudy && !some;
  const words = { queued: "Waiting for its turn.", running: job.stopping ? "Stopping." : shown.what ? `Running: ${shown.what}.` : "Running.", done: empty ? "Ended without a result: nothing was trained to the end. Go on with more time." : job.reason && !ofAStudy ? `Done. ${job.reason}` : "Done.", failed: `Failed: ${job.reason}.`, stopped: `Stopped: ${job.reason}.` };
  if (get("live-state").textContent !== words[job.state]) get("live-state").textContent = words[job.state];
  get("live").dataset.state = job.state;
  const spent = job.spent + (shown.began === null ? 0 : (performance.now() - shown.began) / 1000);
  get("live-time").value = Math.min(1, spent / job.seconds);
  get("live-left").textContent = `${seconds(spent)} spent${ended ? "" : `, ${seconds(Math.max(0, job.seconds - spent))} left`}`;
  get("live-stop").hidden = ended;
  get("live-resume").hidden = !ended || (ofAStudy && job.state === "done");
  get("live-resume").textContent = ofAStudy ? "Try again" : "Go on for 10 more minutes";
  get("live-search").hidden = ofAStudy;
  get("live-yaml").hidden = ofAStudy;
  get("live-clock").hidden = ofAStudy; // its time is a limit that it hardly ever reaches
  get("live-conclude").hidden = ofAStudy || !some || job.stopping || (job.state === "done" && job.kind === "run");
  const done = job.state === "done";
  for (const what of ["report", "bundle"]) {
    get(`live-${what}`).hidden = !done;
    get(`live-${what}`).href = `api/v1/studies/${studyOf(job)}/${what}`;
  }
  get("live-bundle").hidden ||= job.kind === "search" || empty;
  if (job.kind === "export") {
    get("live-bundle").href += `?${new URLSearchParams({ form: job.request.form || "adapter", ...(job.request.trial == null ? {} : { trial: job.request.trial }) })}`;
    get("live-report").hidden = true;
  }
  get("metric").textContent = shown.metric ? shown.metric.name : "Score";
  const sign = shown.metric && shown.metric.direction === "minimize" ? -1 : 1;
  const trials = [...shown.trials.values()];
  const scored = trials.filter((trial) => trial.score !== null);
  const best = shown.trials.get(shown.best) ?? scored.filter((trial) => trial.state === "complete").sort((one, other) => sign * (other.score - one.score))[0];
  get("trials-table").tBodies[0].replaceChildren(...trials.sort((one, other) => (other === best) - (one === best) || one.number - other.number).map((trial) => element("tr", {},
    cell("Trial", String(trial.number), "number"), element("th", { scope: "row" }, trial.label),
    cell("State", trial === best ? `${trial.state}, best${ended ? "" : " so far"}` : trial.state),
    cell("Rows", count(trial.rows), "number"), cell(get("metric").textContent, trial.score === null ? "" : trial.score.toFixed(4), "number"))));
  chart(get("curves"), trials.filter((trial) => trial.curve.length).map((trial) => ({ points: trial.curve, best: trial === best, line: true })));
  const complete = scored.filter((trial) => trial.state === "complete" && trial.trainable);
  let top = -Infinity;
  const front = [...complete].sort((one, other) => one.trainable - other.trainable || sign * (other.score - one.score)).filter((trial) => sign * trial.score > top && ((top = sign * trial.score), true));
  chart(get("front"), [{ points: front.map((trial) => [trial.trainable, trial.score]), line: true, best: true }, ...complete.map((trial) => ({ points: [[trial.trainable, trial.score]], best: front.includes(trial) }))]);
}

function chart(svg, series) {
  const points = series.flatMap((one) => one.points);
  const lines = [drawn("line", { x1: 45, x2: 390, y1: 190, y2: 190, class: "axis" }), drawn("line", { x1: 45, x2: 45, y1: 10, y2: 190, class: "axis" })];
  svg.replaceChildren(...lines);
  if (!points.length) { svg.append(drawn("text", { x: 150, y: 105 }, "nothing yet")); return; }
  const ends = (place) => [Math.min(...points.map((point) => point[place])), Math.max(...points.map((point) => point[place]))];
  const [left, right] = ends(0);
  const [low, high] = ends(1);
  const within = (value, from, to) => (to > from ? (value - from) / (to - from) : 0.5);
  const x = (value) => 50 + 330 * within(value, left, right);
  const y = (value) => 185 - 165 * within(value, low, high);
  for (const one of [...series].sort((a, b) => Boolean(a.best) - Boolean(b.best))) { // the best on top
    const kind = one.best ? " best" : "";
    if (one.line && one.points.length > 1) svg.append(drawn("polyline", { points: one.points.map(([a, b]) => `${x(a)},${y(b)}`).join(" "), class: `line${kind}` }));
    for (const [a, b] of one.points) svg.append(drawn("circle", { cx: x(a), cy: y(b), r: 3, class: `dot${kind}` }));
  }
  svg.append(drawn("text", { x: 4, y: y(high) + 4 }, high.toFixed(3)), drawn("text", { x: 4, y: y(low) + 4 }, low === high ? "" : low.toFixed(3)));
  svg.append(drawn("text", { x: x(left), y: 206, "text-anchor": left === right ? "middle" : "start" }, count(left)), drawn("text", { x: 390, y: 206, "text-anchor": "end" }, left === right ? "" : count(right)));
}

function studyOf(job) { return OF_A_STUDY[job.kind] ? job.request.study : job.id; }

// The command that does the same elsewhere; files are called as here, or DATA and TEST-DATA.
export function commandOf(job, file) {
  const asked = job.request;
  if (job.kind === "conclude") return `autopeft export ${quoted(asked.study)} --force && autopeft report ${quoted(asked.study)}`;
  const words = ["autopeft", job.kind];
  if (job.kind === "export") {
    words.push("--study", asked.study, ...({ merged: ["--merged"], lora: ["--to-lora"] }[asked.form] || []));
    if (asked.trial != null) words.push("--trial", String(asked.trial));
    if (asked.dtype) words.push("--dtype", { bfloat16: "bf16", float32: "fp32" }[asked.dtype]);
    if (asked.lora_rank) words.push("--lora-rank", String(asked.lora_rank));
    if (asked.license) words.push("--license", asked.license);
  } else if (asked.demo) words.push("--demo", ...(asked.demo === "classification" ? [] : [asked.demo]));
  else words.push("--model", asked.model, "--data", file ?? "DATA", ...(asked.test_data ? ["--test-data", "TEST-DATA"] : []));
  const flags = ["task", "space", "searcher", "prefer", "front", "train_rows", "epochs", "seq_len", "batch_size", "seed", "price", "provider"];
  for (const name of flags) if (asked[name] != null) words.push(`--${name.replace("_", "-")}`, String(asked[name]));
  if (!OF_A_STUDY[job.kind]) words.push("--experience", asked.experience === "none" ? "none" : "shipped"); // as the service has it
  if (asked.refit) words.push("--refit");
  const columns = Object.entries(asked.columns || {});
  for (const [role, column] of columns) if (!NO_FLAG.includes(role)) words.push(`--${role}-column`, column);
  const budget = asked.budget || {};
  if (budget.gpu_mem) words.push("--gpu-mem", `${budget.gpu_mem / 1e9}GB`);
  if (budget.time) words.push("--time", `${Math.ceil(budget.time)}s`);
  if (budget.trials) words.push("--trials", String(budget.trials));
  if (budget.params) words.push("--params", String(budget.params));
  if (budget.cost) words.push("--cost", `${budget.cost}usd`);
  if (budget.adapter_size) words.push("--adapter-size", `${budget.adapter_size}B`);
  const rest = columns.filter(([role]) => NO_FLAG.includes(role));
  const note = rest.length ? ` # with columns: ${JSON.stringify(Object.fromEntries(rest))} in autopeft.yaml` : "";
  return words.map(quoted).join(" ") + note;
}

function command(job) {
  get("job-command").textContent = commandOf(job, get("file").files[0]?.name);
  get("asked").textContent = JSON.stringify(job.request, null, 2);
}

async function recite() {
  const mine = ++recited;
  get("recipe-text").hidden = true;
  get("recipe-status").textContent = "Writing, which takes some seconds.";
  try {
    const made = await call("GET", `studies/${studyOf(shown.job)}/recipe?format=${get("recipe-format").value}`);
    if (mine !== recited) return;
    get("recipe").textContent = Object.entries(made.files).map(([name, text]) => `# ${name}\n${text}`).join("\n");
    get("recipe-text").hidden = false;
    get("recipe-status").textContent = `Train with: ${made.command}${made.notes.length ? ` (${made.notes.join("; ")})` : ""}`;
  } catch (error) { if (mine === recited) get("recipe-status").textContent = error.message; }
}
