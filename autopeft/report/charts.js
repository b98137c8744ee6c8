"use strict";
// Charts are drawn when they come near the screen, one at a time, and the others when the browser is idle, so that
// print and a picture of the whole page have them. Those of many trials wait to come near: each would be felt.
(() => {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  // Under a finger, dragging scrolls the page; under a mouse it zooms, and a double click goes back.
  const drag = window.matchMedia("(pointer: fine)").matches ? "zoom" : false;
  const paper = 640; // px: fits A4 and Letter with their usual margins
  const large = 100000; // letters of all charts together: some 400 trials

  const waiting = new Map();
  for (const source of document.querySelectorAll("script[data-chart]")) {
    waiting.set(document.getElementById(source.dataset.chart), source);
  }
  const small = [...waiting.values()].reduce((sum, source) => sum + source.textContent.length, 0) < large;
  if (!("DecompressionStream" in window)) {
    for (const chart of waiting.keys()) {
      chart.textContent = "This browser is too old to draw the chart; its finding stands above.";
    }
    return;
  }

  // The plotting library lies gzipped in the page. From a blob: it is compiled beside the main thread, and
  // the hint in its first line (https://v8.dev/blog/explicit-compile-hints) keeps it from being parsed twice.
  const unpack = async () => {
    const letters = atob(packed.textContent);
    const bytes = new Uint8Array(letters.length);
    for (let at = 0; at < letters.length; at += 1) bytes[at] = letters.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const library = await new Response(stream).blob();
    const script = document.createElement("script");
    const there = new Promise((resolve, reject) => {
      script.addEventListener("load", resolve);
      script.addEventListener("error", reject);
    });
    script.src = URL.createObjectURL(new Blob(["//# allFunctionsCalledOnLoad\n", library], { type: "text/javascript" }));
    document.head.append(script);
    await there;
    URL.revokeObjectURL(script.src);
  };
  const near = new Set();
  let unpacked = null;
  const giveUp = () => {
    for (const chart of waiting.keys()) chart.textContent = "The chart cannot be drawn here; its finding stands above.";
    waiting.clear();
    near.clear();
  };
  const ready = () => (unpacked ??= unpack().catch(giveUp));

  const draw = (chart) => {
    const { data, layout } = JSON.parse(waiting.get(chart).textContent);
    waiting.delete(chart);
    Plotly.newPlot(chart, data, { ...layout, dragmode: drag }, settings);
  };
  const drawAll = () => [...waiting.keys()].forEach(draw);

  let drawing = false;
  const drawNear = async () => {
    if (drawing) return;
    drawing = true;
    try {
      await ready();
      for (const chart of near) {
        near.delete(chart);
        if (waiting.has(chart)) draw(chart);
        await new Promise((resolve) => setTimeout(resolve)); // a key or a scroll comes first
      }
    } finally {
      drawing = false;
    }
  };

  const idle = window.requestIdleCallback ?? setTimeout;
  const drawRest = () => {
    const [next] = waiting.keys();
    if (!next) return;
    draw(next);
    idle(drawRest);
  };

  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          if (isIntersecting) near.add(target);
          else near.delete(target);
        }
        if (near.size) drawNear();
      },
      { rootMargin: "50% 0px" },
    );
    for (const chart of waiting.keys()) watch.observe(chart);
    // Unpacked before it is wanted, so that print and the first chart need not wait.
    const prepare = () => ready().then(() => { if (small) idle(drawRest); });
    window.addEventListener("load", () => idle(prepare));
  } else {
    ready().then(drawAll);
  }

  // Printing does not wait: what was unpacked by then is drawn. A chart keeps its screen width on paper unless told.
  const drawn = () => document.querySelectorAll(".chart.js-plotly-plot");
  window.addEventListener("beforeprint", () => {
    if (!("Plotly" in window)) return;
    drawAll();
    for (const chart of drawn()) Plotly.relayout(chart, { width: paper });
  });
  window.addEventListener("afterprint", () => {
    for (const chart of drawn()) Plotly.relayout(chart, { autosize: true, width: null });
  });
  window.matchMedia("print").addEventListener("change", ({ matches }) => {
    if (matches) ready().then(drawAll);
  });
})();
