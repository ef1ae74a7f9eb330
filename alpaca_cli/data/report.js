// Draws the figures of the report anew with plotly, which is packed into the page.
// Without this script, or when anything here fails, the figures that are already there stay.
"use strict";
(async () => {
  const packed = document.getElementById("plotly");
  if (!packed || !window.DecompressionStream) return;

  async function loadPlotly() {
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
    packed.remove();
  }

  // Plotly reads some HTML in its texts; texts of the data must stay texts.
  const plain = (text) =>
    String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const count = (value) => value.toLocaleString("en-US");
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const narrow = () => window.innerWidth < 640;

  function layout(more) {
    const font = { family: getComputedStyle(document.body).fontFamily, size: 13 };
    return {
      font: { ...font, color: colour("muted") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 8, t: 8, b: 8 },
      showlegend: false,
      dragmode: false,
      hoverlabel: {
        bgcolor: colour("card"),
        bordercolor: colour("muted"),
        font: { ...font, color: colour("ink") },
        align: "left",
      },
      ...more,
    };
  }

  const axis = (more) => ({
    gridcolor: colour("line"),
    linecolor: colour("muted"),
    zeroline: false,
    automargin: true,
    fixedrange: true,
    ...more,
  });

  function mark(found) {
    if (!found) return {};
    const line = { color: colour("mark"), dash: "dash", width: 1.5 };
    return {
      shapes: [{ type: "line", x0: found.at, x1: found.at, y0: 0, y1: 1, yref: "paper", line }],
      annotations: [
        {
          x: found.at,
          y: 1,
          yref: "paper",
          yanchor: "bottom",
          text: plain(found.label),
          showarrow: false,
          font: { color: colour("mark") },
        },
      ],
    };
  }

  function histogram(plot) {
    const ticks = narrow() ? plot.ticks.narrow : plot.ticks.wide;
    const trace = {
      type: "bar",
      x: plot.counts.map((_, place) => place + 0.5),
      y: plot.counts,
      width: 0.92,
      marker: { color: colour("accent") },
      text: plot.labels.map(plain),
      textposition: "none",
      customdata: plot.counts.map((value) => percent(plot.total ? value / plot.total : 0)),
      hovertemplate: `%{text} ${plot.unit}<br>%{y:,} examples, %{customdata}<extra></extra>`,
    };
    const xaxis = axis({
      tickvals: ticks,
      ticktext: ticks.map((place) => plot.edges[place]),
      tickangle: 0,
      showgrid: false,
      range: [0, plot.counts.length],
    });
    const yaxis = axis({ tickformat: ",d", rangemode: "tozero", nticks: 5 });
    const margin = { l: 8, r: 8, t: plot.mark ? 24 : 8, b: 8 };
    return [[trace], layout({ height: 230, margin, xaxis, yaxis, ...mark(plot.mark) })];
  }

  function curve(plot) {
    const traces = plot.series.map((series, place) => ({
      type: "scatter",
      mode: "lines",
      name: plain(series.name),
      x: series.x,
      y: series.y,
      line: { color: colour(`curve-${place}`), width: 2.5, dash: place ? "dash" : "solid" },
      hovertemplate: "%{y:.1%} have ROUGE-L %{x:.2f} or more",
    }));
    const xaxis = axis({ range: [0, 1], showgrid: false, dtick: 0.2 });
    const quarters = [0, 0.25, 0.5, 0.75, 1];
    const ticktext = quarters.map((share) => `${100 * share}\u00a0%`);
    const yaxis = axis({ range: [0, 1.02], tickvals: quarters, ticktext });
    const more = { height: 230, xaxis, yaxis, hovermode: "x" };
    const margin = { l: 8, r: 8, t: 24, b: 8 };
    return [traces, layout({ ...more, margin, ...mark(plot.mark) })];
  }

  function bars(plot) {
    const trace = {
      type: "bar",
      orientation: "h",
      x: plot.counts,
      y: plot.names.map((_, place) => place),
      marker: { color: colour("accent") },
      text: plot.counts.map((value, place) => `${count(value)} · ${percent(plot.shares[place])}`),
      textposition: "outside",
      cliponaxis: false,
      customdata: plot.names.map(plain),
      hovertemplate: "%{customdata}<br>%{text}<extra></extra>",
    };
    const largest = Math.max(...plot.counts);
    const xaxis = axis({ visible: false, range: [0, largest * (narrow() ? 1.9 : 1.3)] });
    const yaxis = axis({
      tickvals: trace.y,
      ticktext: plot.names.map(plain),
      autorange: "reversed",
      showgrid: false,
      tickfont: { color: colour("ink") },
      ticklabelstandoff: 6,
    });
    return [[trace], layout({ height: 27 * plot.names.length + 16, xaxis, yaxis, bargap: 0.35 })];
  }

  // What was written flows to the reasons it went out for and to what was kept.
  function funnel(plot) {
    const source = [], target = [], value = [], links = [];
    let stage = 0;
    plot.counts.forEach((size, place) => {
      if (place === 0 || !size) return;
      source.push(stage);
      target.push(place);
      value.push(size);
      links.push(colour(plot.whole[place] ? "flow" : "flow-loss"));
      if (plot.whole[place]) stage = place;
    });
    const names = plot.names.map((name, place) => `${plain(name)} ${count(plot.counts[place])}`);
    const trace = {
      type: "sankey",
      arrangement: "snap",
      node: {
        label: names,
        color: plot.whole.map((whole) => colour(whole ? "accent" : "loss")),
        pad: 22,
        thickness: 14,
        line: { width: 0 },
        hovertemplate: "%{label}<extra></extra>",
      },
      link: { source, target, value, color: links, hovertemplate: "%{target.label}<extra></extra>" },
    };
    const found = layout({ height: Math.max(240, 40 * plot.names.length) });
    found.font.color = colour("ink");
    return [[trace], found];
  }

  function sunburst(plot) {
    const all = { id: "all", parent: "", name: "all", count: plot.total };
    const slices = [all, ...plot.slices.map((one) => ({ ...one, parent: one.parent || "all" }))];
    const total = `<b>${count(plot.total)}</b><br>instructions`;
    const fill = (one) =>
      colour(one.id === "all" ? "card" : one.rest ? "rest" : `slice-${one.colour % 8}`);
    const trace = {
      type: "sunburst",
      branchvalues: "total",
      sort: false,
      rotation: 90,
      ids: slices.map((one) => one.id),
      labels: slices.map((one) => plain(one.name)),
      parents: slices.map((one) => one.parent),
      values: slices.map((one) => one.count),
      customdata: slices.map((one) => percent(plot.all ? one.count / plot.all : 0)),
      text: slices.map((one) => (one.rest ? "…" : one.id === "all" ? total : plain(one.name))),
      textinfo: "text",
      insidetextorientation: "radial",
      insidetextfont: { color: colour("ink") },
      marker: {
        colors: slices.map(fill),
        line: { color: colour("card"), width: 1.5 },
      },
      leaf: { opacity: 0.75 },
      hovertemplate: "%{label}<br>%{value:,} instructions, %{customdata} of all<extra></extra>",
    };
    // No label rather than a tiny one. (With an empty text among them plotly would not hide any.)
    const uniformtext = { minsize: 10, mode: "hide" };
    return [[trace], layout({ height: narrow() ? 330 : 480, uniformtext })];
  }

  const kinds = { histogram, curve, bars, funnel, sunburst };

  // A click on a bar opens the examples behind it.
  function openExamples(prefix, place) {
    const line = document.getElementById(`${prefix}-${place}`);
    for (let fold = line; fold; fold = fold.parentElement.closest("details")) fold.open = true;
    line?.scrollIntoView({ block: "nearest" });
  }

  async function draw(figure) {
    const plot = JSON.parse(figure.querySelector(".plot-data").textContent);
    if (plot.kind === "funnel" && narrow()) {
      figure.classList.remove("live");
      return;
    }
    let place = figure.querySelector(".plotly-figure");
    const first = !place;
    if (first) {
      place = document.createElement("div");
      place.className = "plotly-figure";
      place.ariaHidden = "true"; // the drawn figure before it is what is read aloud
      figure.querySelector(".drawn").after(place);
    }
    figure.classList.add("live");
    try {
      const config = { displayModeBar: false, responsive: true };
      await Plotly.react(place, ...kinds[plot.kind](plot), config);
    } catch (error) {
      figure.classList.remove("live");
      throw error;
    }
    if (first && plot.kind === "bars")
      place.on("plotly_click", (click) => openExamples(plot.prefix, click.points[0].pointNumber));
  }

  async function drawAll() {
    for (const data of document.querySelectorAll(".plot-data")) await draw(data.parentElement);
    document.documentElement.dataset.drawn = matchMedia(dark).matches ? "dark" : "light";
  }

  const dark = "(prefers-color-scheme: dark)";
  await loadPlotly();
  await drawAll();
  matchMedia(dark).addEventListener("change", drawAll);
  matchMedia("(max-width: 639px)").addEventListener("change", drawAll);
})();
