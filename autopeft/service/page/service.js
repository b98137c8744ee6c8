// What the service is asked, and how its answers are written. No state of the page is here.

export class Problem extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || "the service gave no answer");
    this.status = problem.status;
  }
}

let enter = () => Promise.reject(new Problem({ detail: "a token is needed" }));
export function onLogin(ask) { enter = ask; }

export async function call(method, path, body, options = {}) {
  const json = body !== undefined && !(body instanceof Blob);
  const answer = await fetch(`api/v1/${path}`, {
    method,
    body: json ? JSON.stringify(body) : body,
    headers: { ...(json ? { "content-type": "application/json" } : {}), ...options.headers },
    signal: options.signal,
  });
  if (answer.status === 401 && !options.again) {
    await enter();
    return call(method, path, body, { ...options, again: true });
  }
  const text = await answer.text();
  const content = text ? JSON.parse(text) : null;
  if (!answer.ok) throw new Problem(content || { status: answer.status });
  return content;
}

export const bytes = (count) => {
  if (count == null) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (count >= 1024 && step < 4) { count /= 1024; step += 1; }
  return `${count >= 100 ? Math.round(count) : Number(count.toPrecision(3))} ${units[step]}`;
};
export const seconds = (count) => {
  if (count == null) return "";
  if (count < 59.5) return `${Number(count.toPrecision(2))} s`;
  const whole = Math.round(count);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(count / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
};
export const usd = (count) => { // as the command line writes it
  if (count == null) return "";
  if (count === 0) return "free";
  if (count >= 1000) return `$${Math.round(count).toLocaleString("en")}`;
  return `$${count >= 0.1 ? count.toFixed(2) : Number(count.toPrecision(2))}`;
};
export const count = (number) => (number == null ? "" : number.toLocaleString("en"));

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
export function drawn(name, attributes = {}, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
export const quoted = (text) => (/^[\w@%+=:,.\/-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);
