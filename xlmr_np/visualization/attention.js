"use strict";
(() => {
  const { layers, heads, tokens, special, weights } = JSON.parse(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(atob(weights), (character) => character.charCodeAt(0));
  const AVERAGE = heads;
  const MOST_LINES = 1500;
  const WEAKEST_LINE = 0.02; // among all; of a chosen token also weaker ones are drawn
  const WEAKEST_LINE_OF_TOKEN = 0.004;
  const LISTED = 8;
  const UNSHOWN = /((?![\u200c\u200d])[\p{C}\p{Zl}\p{Zp}])/u;

  // `token` is what was chosen, on the side "from" or "to", and `partner` the other end, in the matrix.
  const state = { layer: layers - 1, head: AVERAGE, view: "links", token: null, side: "from", partner: null };
  let pointed = null; // what the mouse is over goes before what was chosen
  let order = tokens.map((_, token) => token); // the tokens that are shown

  const at = (id) => document.getElementById(id);

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  /* Tokens */

  function piece(token) {
    const text = tokens[token];
    const shown = element("bdi", { class: special[token] ? "piece special" : "piece", dir: "auto" });
    if (special[token] || text === "▁") {
      shown.append(text);
      return shown;
    }
    const word = text.replace(/^▁/, "");
    if (word !== text) shown.append(element("span", { class: "space", "aria-hidden": "true" }, "▁"));
    if (/^\p{M}/u.test(word)) shown.append(element("span", { class: "space", "aria-hidden": "true" }, "◌"));
    // What has no shape, or would turn the text around it, is named; joiners belong to the spelling of words.
    for (const part of word.split(UNSHOWN)) {
      if (UNSHOWN.test(part)) {
        const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
        shown.append(element("span", { class: "code", dir: "ltr" }, `U+${code}`));
      } else if (part) shown.append(part);
    }
    return shown;
  }

  function spoken(token) {
    return tokens[token] === "▁" ? "space" : tokens[token].replace(/^▁/, "");
  }

  function percent(weight) {
    const points = 100 * weight;
    if (points > 0 && points < 0.05) return "< 0.1 %";
    return `${points.toFixed(points < 9.95 ? 1 : 0)} %`;
  }

  const headName = (head) => (head === AVERAGE ? "average of its heads" : `head ${head + 1}`);

  /* Weights among the shown tokens, row by row; each row is of a token that attends. */

  function weightsOf(layer, head) {
    const size = tokens.length;
    const shown = order.length;
    const sum = new Float32Array(shown * shown);
    const first = head === AVERAGE ? 0 : head;
    const last = head === AVERAGE ? heads - 1 : head;
    for (let one = first; one <= last; one++) {
      const start = (layer * heads + one) * size * size;
      for (let row = 0, cell = 0; row < shown; row++) {
        const rowStart = start + order[row] * size;
        for (let column = 0; column < shown; column++, cell++) sum[cell] += (bytes[rowStart + order[column]] / 255) ** 2;
      }
    }
    for (let row = 0; row < shown; row++) {
      const values = sum.subarray(row * shown, (row + 1) * shown);
      const total = shown < size ? values.reduce((a, b) => a + b, 0) : last - first + 1;
      if (total > 0) values.forEach((value, column) => (values[column] = value / total));
    }
    return sum;
  }

  /* Heat maps */

  let colours = new Uint32Array(256); // as a canvas stores them

  function mixColours() {
    const style = getComputedStyle(document.documentElement);
    const stops = ["none", "some", "all"].map((name) => {
      const hex = style.getPropertyValue(`--heat-${name}`).trim();
      return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
    });
    const mixed = new Uint8ClampedArray(4 * 256);
    for (let step = 0; step < 256; step++) {
      const place = (2 * step) / 255;
      const stop = Math.min(1, Math.floor(place));
      const mix = stops[stop].map((value, channel) => value + (stops[stop + 1][channel] - value) * (place - stop));
      mixed.set([...mix, 255], 4 * step);
    }
    colours = new Uint32Array(mixed.buffer);
  }

  function paint(canvas, width, height, colourOf) {
    canvas.width = width;
    canvas.height = height;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = colours[colourOf(i)];
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function paintMap(canvas, values) {
    paint(canvas, order.length, order.length, (i) => Math.round(255 * Math.sqrt(Math.min(1, values[i]))));
  }

  /* All heads */

  const headButtons = [];

  function buildOverview() {
    const table = at("overview");
    table.style.setProperty("--columns", heads + 1);
    const names = [...Array(heads).keys()].map((head) => element("th", { scope: "col", "aria-label": `Head ${head + 1}` }, `${head + 1}`));
    names.push(element("th", { scope: "col", "aria-label": "Average of the heads" }, "avg"));
    const corner = element("th", { scope: "col" }, element("span", { class: "unseen" }, "Layer"));
    table.append(element("thead", {}, element("tr", {}, corner, ...names)));
    const body = element("tbody");
    for (let layer = 0; layer < layers; layer++) {
      headButtons.push([]);
      const row = element("tr", {}, element("th", { scope: "row", "aria-label": `Layer ${layer + 1}` }, `${layer + 1}`));
      for (let head = 0; head <= heads; head++) {
        const button = element("button", { type: "button", tabindex: "-1", "aria-label": `Layer ${layer + 1}, ${headName(head)}` }, element("canvas"));
        button.addEventListener("click", () => choose({ layer, head }));
        headButtons[layer].push(button);
        row.append(element("td", {}, button));
      }
      body.append(row);
    }
    table.append(body);
    table.addEventListener("keydown", (event) => {
      const moves = {
        ArrowUp: [state.layer - 1, state.head], ArrowDown: [state.layer + 1, state.head],
        ArrowLeft: [state.layer, state.head - 1], ArrowRight: [state.layer, state.head + 1],
        Home: [state.layer, 0], End: [state.layer, AVERAGE],
        PageUp: [0, state.head], PageDown: [layers - 1, state.head],
      };
      const move = keyOf(event, moves);
      if (!move) return;
      choose({ layer: within(move[0], layers), head: within(move[1], heads + 1) });
      headButtons[state.layer][state.head].focus();
    });
  }

  function paintOverview() {
    document.body.classList.toggle("fine", order.length > 40);
    headButtons.forEach((row, layer) => row.forEach((button, head) => paintMap(button.firstChild, weightsOf(layer, head))));
    paint(at("legend"), 256, 1, (i) => i);
  }

  const within = (index, length) => Math.max(0, Math.min(length - 1, index));

  // What a key stands for; keys with modifiers belong to the browser.
  function keyOf(event, meanings) {
    if (event.altKey || event.ctrlKey || event.metaKey || !Object.hasOwn(meanings, event.key)) return undefined;
    event.preventDefault();
    return meanings[event.key];
  }

  /* Token lists and labels */

  function buildTokens() {
    for (const side of ["from", "to"]) {
      at(side).replaceChildren(...order.map((token) => {
        const item = element("li", { role: "option", tabindex: "-1", "data-token": token, "aria-label": spoken(token) }, piece(token), element("span", { class: "place" }, `${token + 1}`));
        item.addEventListener("focus", () => choose({ token, side, partner: null }));
        item.addEventListener("pointerenter", (event) => point(event, { token, side, partner: null }));
        item.addEventListener("pointerleave", () => point(null));
        return item;
      }));
    }
    for (const id of ["rows", "columns"]) {
      at(id).replaceChildren(...order.map((token) => element("li", {}, element("span", { class: "label" }, piece(token)))));
    }
    at("picture").style.setProperty("--shown", order.length);
    at("lines").setAttribute("viewBox", `0 0 100 ${order.length}`);
  }

  function onTokenKey(event) {
    const { side } = event.currentTarget.dataset;
    const index = [...event.currentTarget.children].indexOf(document.activeElement);
    const last = order.length - 1;
    const moves = {
      ArrowUp: [index - 1, side], ArrowDown: [index + 1, side], Home: [0, side], End: [last, side],
      ArrowLeft: [index, "from"], ArrowRight: [index, "to"], Escape: null,
    };
    const move = keyOf(event, moves);
    if (move === undefined) return;
    if (move === null) return release();
    const item = at(move[1]).children[within(move[0], order.length)];
    if (item === document.activeElement) choose({ token: Number(item.dataset.token), side: move[1], partner: null });
    else item.focus();
  }

  function onMatrixKey(event) {
    const row = Math.max(0, order.indexOf(state.token));
    const column = Math.max(0, order.indexOf(state.partner));
    const last = order.length - 1;
    const moves = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [row, 0], End: [row, last], PageUp: [0, column], PageDown: [last, column], Escape: null,
    };
    const move = keyOf(event, moves);
    if (move === undefined) return;
    if (move === null) return release();
    const isFirst = state.partner === null; // the first key shows where one is
    chooseCell(...(isFirst ? [row, column] : move));
    at("cursor").scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function cellAt(event) {
    const box = at("map").getBoundingClientRect();
    const index = (offset, length) => within(Math.floor((order.length * offset) / length), order.length);
    return [index(event.clientY - box.top, box.height), index(event.clientX - box.left, box.width)];
  }

  const cell = (row, column) => ({ token: order[within(row, order.length)], side: "from", partner: order[within(column, order.length)] });
  const chooseCell = (row, column) => choose(cell(row, column));

  /* State */

  function choose(changes) {
    Object.assign(state, changes);
    pointed = null;
    renderHead();
    renderPlace();
    at("announcement").textContent = at("readout").textContent;
  }

  function release() {
    choose({ token: null, side: "from", partner: null });
  }

  function point(event, place = null) {
    if (event && event.pointerType !== "mouse") return;
    pointed = place;
    renderPlace();
  }

  function showSpecial(areShown) {
    order = tokens.map((_, token) => token).filter((token) => areShown || !special[token]);
    if (!order.includes(state.token) || (state.partner !== null && !order.includes(state.partner))) {
      Object.assign(state, { token: null, side: "from", partner: null });
    }
    buildTokens();
    paintOverview();
    choose({});
  }

  /* Showing it */

  let values = new Float32Array(); // of the chosen head

  function renderHead() {
    values = weightsOf(state.layer, state.head);
    const name = `Layer ${state.layer + 1}, ${headName(state.head)}`;
    at("chosen-title").textContent = name;
    at("layer").value = state.layer;
    at("head").value = state.head;
    headButtons.forEach((row, layer) => row.forEach((button, head) => {
      const isChosen = layer === state.layer && head === state.head;
      button.tabIndex = isChosen ? 0 : -1;
      button.parentNode.setAttribute("aria-selected", isChosen);
    }));
    for (const [index, title] of [...at("overview").tHead.rows[0].cells].entries()) title.classList.toggle("current", index === state.head + 1);
    for (const [index, row] of [...at("overview").tBodies[0].rows].entries()) row.cells[0].classList.toggle("current", index === state.layer);
    at("links").hidden = state.view !== "links";
    at("matrix").hidden = state.view !== "matrix";
    if (state.view === "matrix") {
      paintMap(at("map"), values);
      at("matrix").style.setProperty("--label", `${at("rows").offsetWidth}px`);
    }
  }

  function renderPlace() {
    const place = pointed ?? state;
    if (state.view === "links") renderLinks(place);
    else renderMatrix(place);
    renderReadout(place);
    renderDetail(place);
  }

  // The weight of the link between a shown token on this side and another shown token.
  function link(side, index, other) {
    return side === "from" ? values[index * order.length + other] : values[other * order.length + index];
  }

  function renderLinks({ token, side }) {
    const shown = order.length;
    const chosen = order.indexOf(token);
    const opposite = side === "from" ? "to" : "from";
    const lines = [];
    for (let row = 0; row < shown; row++) {
      for (let column = 0; column < shown; column++) {
        const weight = values[row * shown + column];
        if (chosen < 0 ? weight >= WEAKEST_LINE : weight >= WEAKEST_LINE_OF_TOKEN && chosen === (side === "from" ? row : column)) {
          lines.push([weight, row + 0.5, column + 0.5]);
        }
      }
    }
    const most = lines.reduce((weight, line) => Math.max(weight, line[0]), 0);
    at("links").classList.toggle("back", chosen >= 0 && side === "to");
    lines.sort((a, b) => b[0] - a[0]).splice(MOST_LINES);
    at("lines").replaceChildren(...lines.reverse().map(([weight, from, to]) => drawn("path", {
      d: `M0 ${from}C45 ${from} 55 ${to} 100 ${to}`,
      "stroke-width": (0.75 + 5 * weight).toFixed(2),
      "stroke-opacity": (chosen < 0 ? 0.06 + 0.9 * weight : 0.15 + 0.85 * Math.sqrt(weight / most)).toFixed(3),
    })));
    for (const each of ["from", "to"]) {
      const focusable = state.side === each && state.token !== null ? order.indexOf(state.token) : 0;
      [...at(each).children].forEach((item, index) => {
        const isPicked = each === side && index === chosen;
        let weight = 0;
        if (chosen >= 0 && each === opposite && most > 0) weight = link(side, chosen, index) / most;
        if (chosen < 0 && each === "to") weight = order.reduce((sum, _, row) => sum + values[row * shown + index], 0) / shown;
        item.style.setProperty("--weight", Math.sqrt(weight).toFixed(3));
        item.classList.toggle("picked", isPicked);
        item.setAttribute("aria-selected", each === state.side && order[index] === state.token);
        item.tabIndex = index === focusable ? 0 : -1;
      });
    }
  }

  function renderMatrix({ token, side, partner }) {
    const row = order.indexOf(side === "from" ? token : partner);
    const column = order.indexOf(side === "from" ? partner : token);
    [...at("rows").children].forEach((item, index) => item.classList.toggle("picked", index === row));
    [...at("columns").children].forEach((item, index) => item.classList.toggle("picked", index === column));
    const cursor = at("cursor");
    cursor.hidden = row < 0 || column < 0;
    cursor.style.top = `${(100 * row) / order.length}%`;
    cursor.style.left = `${(100 * column) / order.length}%`;
  }

  function strongest(side, index) {
    return order
      .map((token, other) => [link(side, index, other), token])
      .sort((a, b) => b[0] - a[0])
      .slice(0, LISTED);
  }

  function renderReadout({ token, side, partner }) {
    const index = order.indexOf(token);
    if (index < 0) {
      at("readout").replaceChildren("All links. Choose a token to see its own.");
      return;
    }
    const number = (weight) => element("span", { class: "number" }, percent(weight));
    if (partner !== null) {
      at("readout").replaceChildren(piece(token), " attends to ", piece(partner), ": ", number(link(side, index, order.indexOf(partner))));
      return;
    }
    const parts = strongest(side, index).slice(0, 3).flatMap(([weight, other]) => [piece(other), " ", number(weight), ", "]);
    at("readout").replaceChildren(piece(token), side === "from" ? " attends to " : " is attended by ", ...parts.slice(0, -1));
  }

  function renderDetail({ token, side }) {
    const index = order.indexOf(token);
    const entry = (weight, ...words) => element("li", {}, element("span", { class: "words" }, ...words), element("span", { class: "number" }, percent(weight)), meter(weight));
    const numbered = (other) => [piece(other), " ", element("span", { class: "place" }, `${other + 1}`)];
    if (index < 0) {
      const links = [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, 2 * LISTED);
      at("detail-title").textContent = "Strongest links";
      at("lists").replaceChildren(element("ol", {}, ...links.map((place) => {
        const [from, to] = [order[Math.floor(place / order.length)], order[place % order.length]];
        return entry(values[place], ...numbered(from), element("span", { class: "arrow" }, " → "), ...numbered(to));
      })));
      return;
    }
    at("detail-title").replaceChildren(...numbered(token));
    const lists = ["from", "to"].map((each) => [
      element("h3", {}, each === "from" ? "attends to" : "is attended by"),
      element("ol", { class: each === "from" ? "" : "back" }, ...strongest(each, index).map(([weight, other]) => entry(weight, ...numbered(other)))),
    ]);
    if (side === "to") lists.reverse();
    at("lists").replaceChildren(...lists.flat());
  }

  function meter(weight) {
    const bar = drawn("svg", { class: "meter", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    bar.append(drawn("rect", { width: weight.toFixed(4), height: 1 }));
    return bar;
  }

  /* Start */

  for (let layer = 0; layer < layers; layer++) at("layer").append(element("option", { value: layer }, `${layer + 1}`));
  for (let head = 0; head < heads; head++) at("head").append(element("option", { value: head }, `${head + 1}`));
  at("head").append(element("option", { value: AVERAGE }, "average"));
  at("layer").addEventListener("change", (event) => choose({ layer: Number(event.target.value) }));
  at("head").addEventListener("change", (event) => choose({ head: Number(event.target.value) }));
  for (const radio of document.getElementsByName("view")) radio.addEventListener("change", () => choose({ view: radio.value }));
  at("special").addEventListener("change", (event) => showSpecial(event.target.checked));
  at("special").closest("label").hidden = special.every((each) => each) || !special.some((each) => each);
  at("release").addEventListener("click", release);
  for (const side of ["from", "to"]) {
    at(side).dataset.side = side;
    at(side).addEventListener("keydown", onTokenKey);
  }
  at("cells").addEventListener("keydown", onMatrixKey);
  at("cells").addEventListener("click", (event) => chooseCell(...cellAt(event)));
  at("cells").addEventListener("pointermove", (event) => point(event, cell(...cellAt(event))));
  at("cells").addEventListener("pointerleave", () => point(null));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    mixColours();
    paintOverview();
    renderHead();
  });

  mixColours();
  buildOverview();
  buildTokens();
  at("picture").hidden = false;
  paintOverview();
  renderHead();
  renderPlace();
})();
