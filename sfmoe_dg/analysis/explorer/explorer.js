(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999"];
  const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
  const SIDE = 336;
  const byId = id => document.getElementById("x-" + id);
  const lists = {};
  for (const name of ["run", "image", "domain", "layer", "block", "head"]) lists[name] = byId(name);
  const canvases = ["picture", "map", "attention"].map(byId);
  const at = { row: 0, column: 0 };
  const pictures = new Map();
  const decoded = new Map();

  function bytes(text) {
    if (!decoded.has(text)) decoded.set(text, Uint8Array.from(atob(text), c => c.charCodeAt(0)));
    return decoded.get(text);
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // The same choice as before where the new list has it, otherwise the given one.
  function fill(list, names, otherwise, keys = names) {
    const before = list.selectedIndex >= 0 ? list.options[list.selectedIndex].value : null;
    list.replaceChildren(...names.map((name, i) => Object.assign(element("option", name), { value: keys[i] })));
    list.disabled = names.length === 0;
    const kept = keys.indexOf(before);
    if (names.length) list.selectedIndex = kept >= 0 ? kept : otherwise;
  }

  const run = () => data.runs[lists.run.selectedIndex];
  const dataset = () => data.datasets[run().dataset];
  const layer = () => run().layers[lists.layer.selectedIndex];
  const block = () => run().attention[lists.block.selectedIndex];
  const imageOf = domain => dataset().objects[lists.image.selectedIndex][domain];
  const current = () => imageOf(lists.domain.selectedIndex);
  const colour = expert => COLOURS[expert % COLOURS.length];

  function choices(image, found, patch) {
    const grid = run().grid, k = found.k, start = (image * grid[0] * grid[1] + patch) * k;
    const chosen = bytes(found.chosen), gates = bytes(found.gates);
    return Array.from({ length: k }, (_, i) => ({ expert: chosen[start + i], weight: gates[start + i] / 255 }));
  }

  function heat(value) {
    const place = value * (CIVIDIS.length - 1), low = Math.min(CIVIDIS.length - 2, Math.floor(place));
    const rest = place - low;
    return "rgb(" + CIVIDIS[low].map((part, i) => Math.round(part + rest * (CIVIDIS[low + 1][i] - part))).join() + ")";
  }

  function whenLoaded(image, draw) {
    const source = dataset().images[image].src;
    if (!pictures.has(source)) {
      const made = new Image();
      made.src = source;
      pictures.set(source, made);
    }
    const picture = pictures.get(source);
    if (picture.complete && picture.naturalWidth) draw(picture);
    else picture.addEventListener("load", () => draw(picture), { once: true });
  }

  function paint(canvas, image, side, cells, marks) {
    canvas.width = canvas.height = side;
    canvas.shown = image;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.clearRect(0, 0, side, side);
    whenLoaded(image, picture => {
      if (canvas.shown !== image) return;
      pen.globalAlpha = 1;
      pen.drawImage(picture, 0, 0, side, side);
      const grid = run().grid;
      if (cells && grid) drawCells(pen, side, grid, cells);
      if (marks) marks(pen, side);
    });
  }

  function drawCells(pen, side, grid, cells) {
    const height = side / grid[0], width = side / grid[1];
    for (let patch = 0; patch < grid[0] * grid[1]; patch++) {
      const x = patch % grid[1] * width, y = Math.floor(patch / grid[1]) * height, cell = cells(patch);
      pen.globalAlpha = cell.alpha;
      pen.fillStyle = cell.colour;
      pen.fillRect(x, y, width, height);
      pen.globalAlpha = 1;
      if (cell.text !== undefined && height >= 14) {
        pen.fillStyle = "#000";
        pen.font = Math.min(18, height * .55) + "px system-ui, sans-serif";
        pen.textAlign = "center";
        pen.textBaseline = "middle";
        pen.lineJoin = "round";
        pen.lineWidth = 3;
        pen.strokeStyle = "rgba(255,255,255,.75)";
        pen.strokeText(cell.text, x + width / 2, y + height / 2);
        pen.fillText(cell.text, x + width / 2, y + height / 2);
      }
    }
  }

  function drawCursor(pen, side) {
    const grid = run().grid;
    if (!grid) return;
    const height = side / grid[0], width = side / grid[1];
    for (const [ink, thick] of [["#000", 5], ["#fff", 2]]) {
      pen.strokeStyle = ink;
      pen.lineWidth = thick;
      pen.strokeRect(at.column * width + 2, at.row * height + 2, width - 4, height - 4);
    }
  }

  function drawParts(pen, side) {
    for (const [, x, y] of dataset().images[current()].parts) {
      pen.beginPath();
      pen.arc(x * side, y * side, 5, 0, 2 * Math.PI);
      pen.fillStyle = "#fff";
      pen.fill();
      pen.lineWidth = 2;
      pen.strokeStyle = "#000";
      pen.stroke();
    }
  }

  const expertCell = (image, found) => patch => {
    const top = choices(image, found, patch)[0];
    return { colour: colour(top.expert), alpha: top.weight ? .62 : .2, text: String(top.expert) };
  };

  function attentionCell(image) {
    const found = block(), grid = found.grid, maps = bytes(found.maps), patches = grid[0] * grid[1];
    const start = (image * found.heads + lists.head.selectedIndex) * patches;
    return patch => ({ colour: heat(maps[start + patch] / 255), alpha: .85 });
  }

  function bar(name, share, text, fillColour) {
    const item = element("li"), track = element("span", undefined, "track"), inner = element("span", undefined, "fill");
    inner.style.width = 100 * share + "%";
    inner.style.background = fillColour;
    track.append(inner);
    item.append(element("span", name), track, element("span", text, "value"));
    return item;
  }

  function describePatch() {
    const grid = run().grid, found = layer();
    byId("patch").textContent = !grid ? "No patches" :
      "Gates of the patch in row " + (at.row + 1) + ", column " + (at.column + 1);
    if (!found) {
      byId("gates").replaceChildren(element("li", "This run has no experts."));
      return;
    }
    const weights = new Map(choices(current(), found, at.row * grid[1] + at.column).map(c => [c.expert, c.weight]));
    byId("gates").replaceChildren(...Array.from({ length: found.experts }, (_, expert) => {
      const weight = weights.get(expert);
      const text = weight === undefined ? "–" : weight ? weight.toFixed(2) : "dropped";
      return bar("expert " + expert, weight || 0, text, colour(expert));
    }));
  }

  function describeUsage() {
    const found = layer(), grid = run().grid;
    if (!found) {
      byId("usage").replaceChildren(element("li", "none"));
      return;
    }
    const counts = new Array(found.experts).fill(0), patches = grid[0] * grid[1];
    for (let patch = 0; patch < patches; patch++) counts[choices(current(), found, patch)[0].expert]++;
    byId("usage").replaceChildren(...counts.map((count, expert) =>
      bar("expert " + expert, count / patches, String(count), colour(expert))));
  }

  function describeImage() {
    const set = dataset(), image = set.images[current()], chosen = run();
    const guess = chosen.predicted[current()], split = chosen.splits[current()];
    const seen = chosen.unseen.includes(image.domain) ? "a domain that the run never saw" :
      split === "in" ? "an image that the run was trained on" : "a held-out image of a training domain";
    byId("summary").textContent = "Class " + set.classes[image.label] + ", predicted " + set.classes[guess] +
      (guess === image.label ? " (right)" : " (wrong)") + "; " + seen + ".";
    const chips = (names, none) => (names.length ? names : [none]).map(name => element("li", name));
    byId("attributes").replaceChildren(...chips(image.attributes.map(a => set.attributes[a]), "none known"));
    byId("parts").replaceChildren(...chips(image.parts.map(p => set.parts[p[0]].replaceAll("_", " ")), "none known"));
  }

  function drawPictures() {
    const image = current(), found = layer(), label = dataset().classes[dataset().images[image].label];
    paint(canvases[0], image, SIDE, null, (pen, side) => { drawParts(pen, side); drawCursor(pen, side); });
    paint(canvases[1], image, SIDE, found ? expertCell(image, found) : null, drawCursor);
    paint(canvases[2], image, SIDE, block() ? attentionCell(image) : null, drawCursor);
    canvases.forEach((canvas, i) => canvas.setAttribute("aria-label",
      ["Picture", "Expert map", "Attention"][i] + " of class " + label + "; arrow keys move the patch"));
    canvases[1].parentElement.hidden = !found;
    canvases[2].parentElement.hidden = !block();
  }

  function drawStrip() {
    const found = layer(), buttons = [];
    dataset().domains.forEach((name, domain) => {
      const image = imageOf(domain), button = element("button"), canvas = element("canvas");
      if (image < 0) return;
      button.type = "button";
      button.setAttribute("aria-pressed", String(domain === lists.domain.selectedIndex));
      button.append(canvas, element("span", name + (run().unseen.includes(domain) ? " (unseen)" : "")));
      button.addEventListener("click", () => {
        lists.domain.selectedIndex = domain;
        update();
        byId("strip").querySelector("[aria-pressed=true]").focus();
      });
      paint(canvas, image, 144, found ? expertCell(image, found) : null);
      buttons.push(button);
    });
    byId("strip").replaceChildren(...buttons);
  }

  function update() {
    const set = dataset(), objects = set.objects;
    const domains = set.domains.map((name, i) => name + (run().unseen.includes(i) ? " (unseen)" : ""));
    fill(lists.domain, domains, run().unseen[0] || 0, set.domains);
    const image = Math.max(0, lists.image.selectedIndex);
    const names = objects.map((row, i) => i + 1 + ": class " + set.classes[set.images[row.find(j => j >= 0)].label]);
    fill(lists.image, names, Math.min(image, objects.length - 1));
    if (current() < 0) lists.domain.selectedIndex = objects[lists.image.selectedIndex].findIndex(j => j >= 0);
    fill(lists.layer, run().layers.map(found => found.name), run().layers.length - 1);
    fill(lists.block, run().attention.map(found => found.name), run().attention.length - 1);
    fill(lists.head, block() ? Array.from({ length: block().heads }, (_, i) => "head " + i) : [], 0);
    const grid = run().grid || [1, 1];
    at.row = Math.min(at.row, grid[0] - 1);
    at.column = Math.min(at.column, grid[1] - 1);
    describeImage();
    describePatch();
    describeUsage();
    drawPictures();
    drawStrip();
  }

  function move(row, column) {
    const grid = run().grid;
    if (!grid) return;
    const next = [Math.max(0, Math.min(grid[0] - 1, row)), Math.max(0, Math.min(grid[1] - 1, column))];
    if (next[0] === at.row && next[1] === at.column) return;
    [at.row, at.column] = next;
    describePatch();
    drawPictures();
  }

  function step(by) {
    const number = lists.image.options.length;
    lists.image.selectedIndex = (lists.image.selectedIndex + by + number) % number;
    update();
  }

  const KEYS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  for (const canvas of canvases) {
    canvas.addEventListener("pointermove", event => {
      const grid = run().grid, box = canvas.getBoundingClientRect();
      if (grid) move(Math.floor((event.clientY - box.top) / box.height * grid[0]),
        Math.floor((event.clientX - box.left) / box.width * grid[1]));
    });
    canvas.addEventListener("keydown", event => {
      const by = KEYS[event.key];
      if (!by) return;
      event.preventDefault();
      move(at.row + by[0], at.column + by[1]);
    });
  }
  for (const list of Object.values(lists)) list.addEventListener("change", update);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  fill(lists.run, data.runs.map(found => found.name), Math.max(0, data.runs.findIndex(found => found.layers.length)));
  update();
})();
