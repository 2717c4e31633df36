"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  const narrow = window.matchMedia("(max-width: 720px)");
  const darkSystem = window.matchMedia("(prefers-color-scheme: dark)");
  const printing = window.matchMedia("print");
  const LIGHT = ["#3b5bdb", "#d9480f", "#0b8a68", "#c2255c", "#7048e8", "#946c00", "#0c8599", "#5c6670"];
  const DARK = ["#8ea6ff", "#ff9f5a", "#4cc9a0", "#ff8fb5", "#b9a3ff", "#e3bd5b", "#63d4e6", "#adb5bd"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];

  // What is remembered lasts as long as the browser's tab; a page that may not remember works all the same.
  const recall = (key) => { try { return sessionStorage.getItem("edgerl-" + key); } catch { return null; } };
  const remember = (key, value) => { try { sessionStorage.setItem("edgerl-" + key, value); } catch { /* see above */ } };

  const isDark = () => !printing.matches && (root.dataset.theme === "dark" || (root.dataset.theme === "auto" && darkSystem.matches));
  const colours = () => (isDark() ? DARK : LIGHT);
  const colour = (index) => colours()[index % 8];
  const faded = (hex, alpha) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;
  const ink = () => (isDark() ? { text: "#c3cad2", line: "#2c333c", panel: "#181c22", good: "#4cc9a0", bad: "#ff8787" }
    : { text: "#3f4750", line: "#e6e9ed", panel: "#ffffff", good: "#0b8a68", bad: "#d64545" });
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const written = (value, digits) => (Math.abs(value) >= 1e12 ? value.toExponential(2).replace("e+", "e") : value.toLocaleString("en", { maximumFractionDigits: digits }).replace(/,/g, "\u202f"));
  const number = (value) => written(Number(value.toPrecision(4)), 6);
  const count = (value) => written(value, 0); // never rounded: it is compared with others
  const returnAxis = (values) => ({ title: { text: "return" }, tickformat: Math.max(...values.map(Math.abs)) >= 1e9 ? "~g" : ",~f" });
  const percent = (share) => (share >= 10 ? "×" + number(Number(share.toPrecision(2))) : Number((100 * share).toPrecision(2)) + " %");

  const base = (more) => {
    const { text, line, panel } = ink();
    const axis = (given) => ({ gridcolor: line, zeroline: false, linecolor: line, tickcolor: line, automargin: true, fixedrange: true, ...given });
    const { xaxis, yaxis, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 12, t: 8, b: 8 }, showlegend: false, separators: ".\u202f",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 11 : 12, color: text },
      hoverlabel: { bgcolor: panel, bordercolor: line, font: { color: text } }, dragmode: false, xaxis: axis(xaxis), yaxis: axis(yaxis), ...rest,
    };
  };
  const options = { displayModeBar: false, responsive: true, showTips: false };

  // What cannot be drawn says so in its place, and the others are drawn all the same.
  const attempt = (element, work) => {
    try { work(); } catch (error) {
      const said = document.createElement("p");
      said.className = "note";
      said.textContent = `This chart cannot be drawn: ${error.message}`;
      element.replaceWith(said);
    }
  };

  // Charts: a function per element that redraws it in the current colours; hidden ones wait.
  const charts = new Map();
  const draw = (id) => {
    const element = byId(id);
    if (!element || element.offsetParent === null) return;
    attempt(element, () => {
      const { traces, layout, height, heading } = charts.get(id)();
      if (heading) element.previousElementSibling.textContent = heading;
      if (height) element.style.height = `${height}px`;
      Plotly.react(element, traces, layout, options);
      if (!element.dataset.keys) useKeys(element);
    });
  };
  const drawAll = () => {
    for (const swatch of document.querySelectorAll(".swatch[data-colour]")) swatch.style.background = colour(Number(swatch.dataset.colour));
    for (const id of charts.keys()) draw(id);
    drawMasks();
  };

  // Arrow keys walk along the points of a chart, and show what a pointer would.
  const useKeys = (element) => {
    element.dataset.keys = "on";
    let curve = 0, point = -1, row = 0;
    const description = document.createElement("p"); // seen below the chart, and read out
    description.className = "description";
    description.setAttribute("aria-live", "polite");
    element.after(description);
    const walkable = () => element.data.map((trace, index) => [trace, index]).filter(([trace]) => trace.hoverinfo !== "skip" && trace.visible !== false);
    element.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1 }[event.key], rows = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") { Plotly.Fx.unhover(element); return; }
      if (!steps && !rows) return;
      event.preventDefault();
      const open = walkable();
      if (!open.length) return;
      curve = (curve + (rows || 0) + open.length) % open.length;
      const [trace, index] = open[curve];
      point = Math.min(Math.max(point + (steps || 0), 0), trace.x.length - 1);
      if (trace.type === "heatmap") { // rows are its curves, the strongest first
        row = Math.min(Math.max(row + (rows || 0), 0), trace.description.length - 1);
        description.textContent = trace.description[row][point];
        return;
      }
      Plotly.Fx.hover(element, [{ curveNumber: index, pointNumber: point }], [`${trace.xaxis || "x"}y`]);
      description.textContent = trace.description ? trace.description[point] : "";
    });
    element.addEventListener("blur", () => { Plotly.Fx.unhover(element); description.textContent = ""; });
  };

  const pressed = (box, name, choose) => {
    if (!box) return;
    for (const button of box.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        for (const other of box.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
        choose(button.dataset[name]);
      });
    }
  };

  // Learning curves, one chart per task, and one of success rates where there are any.
  const hiddenCurves = new Set();
  const random = (curve, step) => (step <= curve.start ? ", before learning" : "");
  const bands = (task, at, name, format, yaxis) => () => {
    const traces = task.curves.flatMap((curve, index) => {
      const band = curve[name], visible = !hiddenCurves.has(`${at} ${index}`);
      if (!band) return [];
      const edge = { x: band.steps, mode: "lines", line: { width: 0 }, hoverinfo: "skip", visible };
      return [
        { ...edge, y: band.low },
        { ...edge, y: band.high, fill: "tonexty", fillcolor: faded(colour(index), 0.16) },
        {
          x: band.steps, y: band.middle, mode: band.steps.length < 3 ? "lines+markers" : "lines", name: plain(curve.label), visible,
          line: { width: 2, color: colour(index), dash: DASHES[Math.floor(index / 8) % 4] },
          customdata: band.low.map((low, i) => [format(band.middle[i]), format(low), format(band.high[i]), random(curve, band.steps[i])]),
          hovertemplate: `<b>%{customdata[0]}</b> [%{customdata[1]}, %{customdata[2]}]${curve.runs > 1 ? `, ${curve.runs} runs` : ""}%{customdata[3]}<extra>${plain(curve.label)}</extra>`,
          description: band.steps.map((step, i) => `Step ${count(step)}, ${curve.label}: ${format(band.middle[i])} [${format(band.low[i])}, ${format(band.high[i])}]${random(curve, step)}`),
        },
      ];
    });
    const starts = [...new Set(task.curves.map((curve) => curve.start))];
    const shapes = starts.map((start) => ({ type: "rect", yref: "paper", x0: 0, x1: start, y0: 0, y1: 1, line: { width: 0 }, fillcolor: faded(ink().line, 0.6), layer: "below" }));
    return { traces, layout: base({ hovermode: "x unified", hoverdistance: -1, shapes, xaxis: { title: { text: "environment steps" }, tickformat: "~s", rangemode: "tozero" }, yaxis }) };
  };
  data.tasks.forEach((task, at) => {
    const legend = byId(`legend-${at}`);
    task.curves.forEach((curve, index) => {
      const button = document.createElement("button"), swatch = document.createElement("span");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      swatch.className = "swatch";
      swatch.dataset.colour = index;
      button.append(swatch, curve.remark ? `${curve.label}, ${curve.remark}` : curve.label);
      button.addEventListener("click", () => {
        const key = `${at} ${index}`;
        if (!hiddenCurves.delete(key)) hiddenCurves.add(key);
        button.setAttribute("aria-pressed", !hiddenCurves.has(key));
        draw(`curves-${at}`);
        draw(`success-${at}`);
      });
      legend.append(button);
    });
    charts.set(`curves-${at}`, bands(task, at, "returns", number, { ...returnAxis(task.curves.flatMap((curve) => curve.returns.middle)), rangemode: "tozero" }));
    charts.set(`success-${at}`, bands(task, at, "success", percent, { title: { text: "success" }, tickformat: ".0%", range: [0, 1.04] }));
  });

  // One run or model at a time.
  let shown = 0;
  const current = () => data.details[shown];
  const state = { network: "actor", weigh: "degree", budget: "memory" };

  const layerName = (index, count) => (index === count - 1 ? "output layer" : `layer ${index + 1}`);
  const lines = (table, kind, format, axis) => {
    const series = table.series.filter((one) => one.kind === kind && one.network === state.network);
    const layers = series.length;
    const traces = series.map((one, index) => {
      const name = one.layer === null ? "all sparse layers" : layerName(one.layer, layers);
      return {
        x: one.steps, y: one.values, mode: one.steps.length < 3 ? "lines+markers" : "lines", name: `${name}: ${format(one.values.at(-1))}`, line: { width: 2, color: colour(index), dash: DASHES[index % 4] },
        customdata: one.values.map(format), hovertemplate: `%{customdata}<extra>${name}</extra>`,
        description: one.steps.map((step, i) => `Step ${count(step)}, ${name}: ${format(one.values[i])}`),
      };
    });
    const legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false };
    return { traces, layout: base({ hovermode: "x unified", hoverdistance: -1, showlegend: true, legend, xaxis: { title: { text: "environment steps" }, tickformat: "~s", rangemode: "tozero" }, yaxis: axis }) };
  };
  const each = (prefix, make) => data.details.forEach((_, at) => charts.set(`${prefix}-${at}`, make));
  const extent = (series, kind) => {
    const values = series.filter((one) => one.kind === kind && one.network === state.network).flatMap((one) => one.values);
    return { least: Math.max(1, Math.min(...values)), most: Math.max(2, ...values) };
  };
  each("connections", () => {
    const { least, most } = extent(current().layers.series, "connections");
    return lines(current().layers, "connections", count, { title: { text: "connections" }, type: "log", dtick: 1, tickformat: ",~r", range: [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most) + 0.01)] });
  });
  each("ever", () => lines(current().layers, "ever", percent, { title: { text: "share ever active" }, tickvals: [0, 0.25, 0.5, 0.75, 1], ticktext: ["0", "25 %", "50 %", "75 %", "100 %"], range: [0, 1.04] }));

  const ROW = 19;
  const sensorRows = () => {
    const { sensors } = current();
    const order = sensors.names.map((_, index) => index).sort((a, b) => sensors[state.weigh][a] - sensors[state.weigh][b] || b - a);
    return order.slice(-sensors.most);
  };
  const short = (name) => (narrow.matches && name.length > 20 ? name.slice(0, 19) + "…" : name);
  const sensorAxis = (rows) => ({ tickvals: rows.map((_, i) => i), ticktext: rows.map((row) => plain(short(current().sensors.names[row]))), range: [-0.6, rows.length - 0.4], showgrid: false });
  each("sensors", () => {
    const { sensors } = current(), rows = sensorRows(), now = sensors[state.weigh], before = sensors[`${state.weigh}_before`];
    const what = state.weigh === "degree" ? "connections" : "Σ |weight|", format = state.weigh === "degree" ? count : number;
    const describe = (values, when) => rows.map((row) => `${sensors.names[row]}: ${format(values[row])} ${what}, ${when}`);
    const traces = [{
      type: "bar", orientation: "h", x: rows.map((row) => now[row]), y: rows.map((_, i) => i), marker: { color: faded(colour(0), 0.85) }, name: "now",
      customdata: rows.map((row) => [plain(sensors.names[row]), format(now[row])]), hovertemplate: `%{customdata[0]}: <b>%{customdata[1]}</b> ${what}<extra>now</extra>`, description: describe(now, "now"),
    }];
    if (before) traces.push({
      type: "scatter", mode: "markers", x: rows.map((row) => before[row]), y: rows.map((_, i) => i), name: "at the start",
      marker: { symbol: "line-ns", size: 13, line: { width: 2, color: colour(1) } },
      customdata: rows.map((row) => [plain(sensors.names[row]), format(before[row])]), hovertemplate: `%{customdata[0]}: <b>%{customdata[1]}</b> ${what}<extra>at the start</extra>`, description: describe(before, "at the start"),
    });
    return { traces, heading: before ? "Now, and at the start (marks)" : "Now", height: 70 + ROW * rows.length, layout: base({ hovermode: "closest", bargap: 0.25, xaxis: { title: { text: what }, tickformat: ",~r", rangemode: "tozero", nticks: 6 }, yaxis: sensorAxis(rows) }) };
  });
  each("sensors-over-time", () => {
    const { sensors } = current(), rows = sensorRows(), what = state.weigh === "degree" ? "connections" : "Σ |weight|", format = state.weigh === "degree" ? count : number;
    const series = sensors[`${state.weigh}_over_time`], z = rows.map((row) => series.map((time) => time[row]));
    const scale = isDark() ? [[0, "#20262e"], [0.5, "#4a63b8"], [1, "#c3d0ff"]] : [[0, "#f3f5f9"], [0.5, "#8ea3ea"], [1, "#23378f"]];
    return {
      traces: [{
        type: "heatmap", x: sensors.steps, y: rows.map((_, i) => i), z, colorscale: scale, ygap: 1, zmin: 0, zmax: Math.max(...z.flat()) || 1,
        colorbar: { thickness: 10, outlinewidth: 0, nticks: 5, tickformat: "~s", title: { text: what, side: "right" } },
        description: rows.map((row) => series.map((time, i) => `Step ${count(sensors.steps[i])}, ${sensors.names[row]}: ${format(time[row])} ${what}`)).reverse(),
        text: rows.map((row) => series.map(() => plain(sensors.names[row]))), hovertemplate: `%{text}<br>step %{x:,}: <b>%{z:.4~r}</b> ${what}<extra></extra>`,
      }],
      height: 70 + ROW * rows.length,
      layout: base({ hovermode: "closest", xaxis: { title: { text: "environment steps" }, tickformat: "~s", nticks: 6 }, yaxis: sensorAxis(rows) }),
    };
  });

  const BUDGETS = { memory: "memory", flash: "flash", flops: "FLOPs per action", latency: "latency" };
  each("devices", () => {
    const { devices } = current(), wanted = narrow.matches ? [state.budget] : Object.keys(BUDGETS);
    const shares = wanted.flatMap((name) => devices.map((device) => device.verdicts[name].share));
    const low = Math.floor(Math.log10(Math.min(0.1, ...shares.filter((share) => share > 0)))), high = Math.max(Math.log10(Math.max(...shares)) + 0.25, 0.4);
    const width = 1 / wanted.length, { good, bad, text, line, panel } = ink(), layout = {}, annotations = [], shapes = [];
    const traces = wanted.map((name, at) => {
      const suffix = at ? at + 1 : "", verdicts = devices.map((device) => device.verdicts[name]);
      layout[`xaxis${suffix}`] = {
        type: "log", range: [low, high], domain: [at * width, (at + 1) * width - (wanted.length > 1 ? 0.02 : 0)], gridcolor: line, linecolor: line, zeroline: false, fixedrange: true,
        tickvals: [0.0001, 0.01, 1, 100, 10000].filter((v) => Math.log10(v) >= low && Math.log10(v) <= high), ticktext: [0.0001, 0.01, 1, 100, 10000].filter((v) => Math.log10(v) >= low && Math.log10(v) <= high).map((v) => (v > 1 ? `×${v}` : `${100 * v} %`)),
      };
      annotations.push({ text: `<b>${BUDGETS[name]}</b>`, x: at * width, xref: "paper", y: 1, yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false });
      shapes.push({ type: "line", xref: `x${suffix}`, x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: text, width: 1.5, dash: "dot" } });
      return {
        type: "bar", orientation: "h", xaxis: `x${suffix}`, yaxis: "y", name: BUDGETS[name], y: devices.map((_, i) => i), x: verdicts.map((verdict) => verdict.share),
        marker: { color: verdicts.map((verdict) => (verdict.fits ? good : bad)), opacity: 0.85, pattern: { shape: verdicts.map((verdict) => (verdict.fits ? "" : "/")), fgcolor: panel, solidity: 0.3, size: 6 } },
        description: devices.map((device, i) => `${device.name}, ${device.runtime}, ${BUDGETS[name]}: ${percent(verdicts[i].share)} of the budget, ${verdicts[i].fits ? "fits" : "exceeds it"}; ${verdicts[i].text}`),
        customdata: devices.map((device, i) => [plain(device.name), verdicts[i].text, percent(verdicts[i].share), verdicts[i].fits ? "fits" : "exceeds it", device.runtime]),
        hovertemplate: `%{customdata[0]}, %{customdata[4]}<br>${BUDGETS[name]}: <b>%{customdata[2]}</b> of the budget, %{customdata[3]}<br>%{customdata[1]}<extra></extra>`,
      };
    });
    const made = base({ hovermode: "closest", bargap: 0.3, margin: { l: 8, r: 12, t: 26, b: 26 }, annotations, shapes, yaxis: { tickvals: devices.map((_, i) => i), ticktext: devices.map((device) => plain(narrow.matches ? device.id : device.name)), range: [devices.length - 0.4, -0.6], showgrid: false } });
    return { traces, height: 60 + 20 * devices.length, layout: { ...made, ...layout } };
  });

  // Ticks at 1, 2 and 5 of each decade, in units that people read.
  const withUnit = (value, unit) => {
    const [size, prefix] = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]].find(([size]) => value >= 0.999 * size) || [1e-9, "n"];
    return `${Number((value / size).toPrecision(3))} ${prefix}${unit}`;
  };
  const roundTicks = (values, unit) => {
    const low = Math.min(...values) / 1.2, high = 1.2 * Math.max(...values), tickvals = [];
    const step = high / low > (narrow.matches ? 30 : 300) ? [1] : high / low > 5 ? [1, 2, 5] : narrow.matches ? [1, 1.5, 2, 3, 4, 6, 8] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade++) {
      for (const digit of step) if (digit * 10 ** decade >= low && digit * 10 ** decade <= high) tickvals.push(digit * 10 ** decade);
    }
    return { tickvals, ticktext: tickvals.map((value) => withUnit(value, unit)), range: [Math.log10(low), Math.log10(high)] };
  };

  // Bytes in the binary units of the tables: ticks at powers of two, and between them where the axis is short.
  const byteText = (value) => { const [size, unit] = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]].find(([size]) => value >= size) || [1, "B"]; return `${number(value / size)} ${unit}`; };
  const byteTicks = (values) => {
    const low = Math.min(...values) / 1.2, high = 1.2 * Math.max(...values), tickvals = [];
    const between = high / low < 4 ? [1, 1.25, 1.5, 1.75] : high / low < 12 ? [1, 1.5] : [1];
    const apart = Math.ceil(Math.log2(high / low) / (narrow.matches ? 4 : 8));
    for (let power = Math.floor(Math.log2(low)); power <= Math.log2(high); power++) {
      if (power % apart === 0) for (const part of between) if (part * 2 ** power >= low && part * 2 ** power <= high) tickvals.push(part * 2 ** power);
    }
    return { tickvals, ticktext: tickvals.map(byteText), range: [Math.log10(low), Math.log10(high)] };
  };

  const fitChart = (index, cost, label, ticks) => () => {
    const fit = current().fits[index], { trials, kinds } = fit;
    const traces = kinds.map((kind, rank) => {
      const own = trials.filter((trial) => trial.precision === kind);
      return {
        type: "scatter", mode: "markers", name: plain(kind), x: own.map((trial) => trial[cost]), y: own.map((trial) => trial.mean),
        error_y: { type: "data", symmetric: false, array: own.map((t) => t.high - t.mean), arrayminus: own.map((t) => t.mean - t.low), color: faded(colour(rank), 0.6), thickness: 1.2, width: 3 },
        marker: { size: 9, color: own.map((trial) => (trial.fits ? colour(rank) : ink().panel)), line: { width: 1.5, color: colour(rank) } },
        customdata: own.map((t) => [plain(t.architecture), count(t.connections), number(t.mean), number(t.low), number(t.high), plain(t[`${cost}_text`]), t.fits ? "within the budgets" : "over a budget"]),
        description: own.map((t) => `${t.architecture}, ${kind}: return ${number(t.mean)} [${number(t.low)}, ${number(t.high)}], ${t[`${cost}_text`]}, ${t.fits ? "within the budgets" : "over a budget"}`),
        hovertemplate: `<b>%{customdata[0]}</b>, ${plain(kind)}, %{customdata[1]} connections<br>return %{customdata[2]} [%{customdata[3]}, %{customdata[4]}]<br>%{customdata[5]}, %{customdata[6]}<extra></extra>`,
      };
    });
    let best = -Infinity;
    const front = [...trials].sort((a, b) => a[cost] - b[cost] || b.mean - a.mean).filter((trial) => trial.mean > best && ((best = trial.mean), true));
    traces.unshift({ type: "scatter", mode: "lines", x: front.map((t) => t[cost]), y: front.map((t) => t.mean), line: { color: ink().text, width: 1.5 }, hoverinfo: "skip" });
    if (fit.chosen) traces.push({ type: "scatter", mode: "markers", x: [fit.chosen[cost]], y: [fit.chosen.mean], marker: { symbol: "circle-open", size: 18, color: ink().text, line: { width: 2 } }, hoverinfo: "skip" });
    const across = { type: "line", xref: "paper", x0: 0, x1: 1, y0: fit.least, y1: fit.least, line: { color: ink().text, width: 1, dash: "dash" } };
    const shapes = cost === "latency" ? [across, { type: "line", yref: "paper", y0: 0, y1: 1, x0: fit.budget, x1: fit.budget, line: { color: ink().bad, width: 1, dash: "dot" } }] : [across];
    return { traces, layout: base({ hovermode: "closest", shapes, xaxis: { type: "log", title: { text: label }, ...ticks([...trials.map((trial) => trial[cost]), ...(cost === "latency" ? [fit.budget] : [])]) }, yaxis: returnAxis(trials.map((trial) => trial.mean)) }) };
  };
  data.details.forEach((detail, at) => detail.fits.forEach((_, index) => {
    charts.set(`fit-latency-${at}-${index}`, fitChart(index, "latency", "latency (estimate)", (values) => roundTicks(values, "s")));
    charts.set(`fit-bytes-${at}-${index}`, fitChart(index, "bytes", "model", byteTicks));
  }));

  // Topology: a canvas per layer, rows are inputs, columns are outputs.
  const bits = (text) => { const raw = atob(text); return (at) => (raw.charCodeAt(at >> 3) >> (7 - (at & 7))) & 1; };
  const rgb = (name) => { const hex = getComputedStyle(root).getPropertyValue(name).trim(); return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)); };
  const paint = (canvas, picture, part) => {
    const { n_inputs: rows, n_outputs: columns } = picture, context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
    const own = bits(picture[part]), otherPart = part === "before" ? "after" : "before", other = picture[otherPart] ? bits(picture[otherPart]) : own;
    const kept = rgb("--kept"), changed = rgb(part === "before" ? "--dropped" : "--grown");
    for (let at = 0; at < rows * columns; at++) {
      if (!own(at)) continue;
      image.data.set([...(other(at) ? kept : changed), 255], 4 * at);
    }
    context.putImageData(image, 0, 0);
  };
  const drawMasks = () => {
    for (const canvas of document.querySelectorAll(`#detail-${shown} canvas`)) attempt(canvas, () => {
      const picture = current().pictures[Number(canvas.dataset.layer)];
      canvas.width = picture.n_outputs;
      canvas.height = picture.n_inputs;
      const width = canvas.clientWidth;
      canvas.style.height = `${Math.min(Math.max(picture.n_inputs * (picture.n_inputs < 64 ? 7 : 1) , 48), Math.max(width, 120))}px`;
      paint(canvas, picture, canvas.dataset.part);
    });
  };

  const show = (at) => {
    shown = at;
    for (const section of document.querySelectorAll("[data-section]")) section.removeAttribute("id");
    data.details.forEach((_, index) => { byId(`detail-${index}`).hidden = index !== at; });
    for (const section of byId(`detail-${at}`).querySelectorAll("[data-section]")) section.id = section.dataset.section; // for the links above
    drawAll();
  };
  const picker = byId("picker");
  if (picker) picker.addEventListener("change", () => { remember("shown", picker.value); show(Number(picker.value)); });
  for (const [name, key] of [["network", "network"], ["weigh", "weigh"], ["budget", "budget"]]) {
    for (const box of document.querySelectorAll(`.choice[data-of="${name}"]`)) {
      pressed(box, "value", (value) => {
        state[key] = value;
        for (const button of document.querySelectorAll(`.choice[data-of="${name}"] button`)) button.setAttribute("aria-pressed", button.dataset.value === value);
        drawAll();
      });
    }
  }

  const THEMES = { auto: ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };
  const setTheme = (theme) => {
    root.dataset.theme = theme;
    byId("theme").textContent = THEMES[theme][0];
    byId("theme").setAttribute("aria-label", `Colours: ${THEMES[theme][1]}`);
  };
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES), next = names[(names.indexOf(root.dataset.theme) + 1) % names.length];
    setTheme(next);
    remember("theme", next);
    drawAll();
  });
  setTheme(recall("theme") in THEMES ? recall("theme") : "auto");
  // Paper cannot be unfolded: what is folded is open while it is printed.
  const unfold = (isPrinted) => {
    for (const box of document.querySelectorAll("details")) {
      if (isPrinted && !box.open) box.dataset.unfolded = box.open = true;
      else if (!isPrinted && box.dataset.unfolded) { delete box.dataset.unfolded; box.open = false; }
    }
  };
  window.addEventListener("beforeprint", () => unfold(true));
  window.addEventListener("afterprint", () => unfold(false));
  printing.addEventListener("change", () => unfold(printing.matches));
  for (const query of [darkSystem, narrow, printing]) query.addEventListener("change", drawAll);

  const last = Number(recall("shown"));
  const first = Number.isInteger(last) && last > 0 && last < data.details.length ? last : 0;
  if (picker) picker.value = String(first);
  show(first);
  if (data.reload_seconds) setInterval(() => { if (!document.hidden) location.reload(); }, 1000 * data.reload_seconds);
})();
