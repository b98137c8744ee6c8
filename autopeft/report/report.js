"use strict";
(() => {
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  // Under a finger, dragging scrolls the page; under a mouse it zooms, and a double click goes back.
  const drag = window.matchMedia("(pointer: fine)").matches ? "zoom" : false;

  // The plotting library lies gzipped in the page.
  const unpack = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };

  const draw = async (packed) => {
    if (!("DecompressionStream" in window)) {
      for (const chart of document.querySelectorAll(".chart")) {
        chart.textContent = "This browser is too old to draw the chart; its finding stands above.";
      }
      return;
    }
    await unpack(packed.textContent);
    for (const source of document.querySelectorAll("script[data-chart]")) {
      const { data, layout } = JSON.parse(source.textContent);
      Plotly.newPlot(source.dataset.chart, data, { ...layout, dragmode: drag }, settings);
    }
    // A chart keeps its screen width on paper unless it is told.
    const refit = () => document.querySelectorAll(".chart").forEach((chart) => Plotly.Plots.resize(chart));
    window.addEventListener("beforeprint", refit);
    window.addEventListener("afterprint", refit);
  };
  const packed = document.getElementById("plotly");
  if (packed) draw(packed);

  const table = document.getElementById("trials");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];

  const filter = document.getElementById("filter");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    document.getElementById("shown").textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  });

  const key = (row, column) => {
    const cell = row.cells[column];
    if ("order" in cell.dataset) return Number.parseFloat(cell.dataset.order);
    return column === 0 ? Number(cell.textContent) : cell.textContent.trim();
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = rows.slice().sort((one, other) => {
        const [a, b] = [key(one, column), key(other, column)];
        if (typeof a === "string") return down ? b.localeCompare(a) : a.localeCompare(b);
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return down ? b - a : a - b;
      });
      body.append(...sorted);
    });
  });
})();
