// Draws one scene with WebGL 2. Lengths are metres from the lowest corner of the scene's box; z is up.
"use strict";

const byId = (id) => document.getElementById(id);
const scene = JSON.parse(byId("scene").textContent);
const canvas = byId("view");
const middle = scene.extent.map((length) => length / 2);
const diagonal = Math.max(Math.hypot(...scene.extent), 0.1);
const FIELD = Math.tan(0.4); // half the field of view, across the shorter side of the picture
const ROWS = 400; // of the legend, at most
const START = { target: middle, azimuth: -2.2, elevation: 0.7, distance: 0.5 * diagonal / Math.sin(0.4) };

const layers = new Map(scene.layers.map((layer) => [layer.name, { ...layer, hidden: new Set() }]));
const modes = ["colour", "normals", ...layers.keys()];
const state = { mode: "colour", layer: scene.layers[0]?.name, size: 1, cut: Infinity, inside: true, cameras: false, ...START };

const POINT_VERTEX = `#version 300 es
in vec3 position, color, normal;
in uint code;
uniform mat4 camera;
uniform vec3 eye;
uniform float unit, size, smallest, cut;
uniform int mode; // 0 colour, 1 normals, 2 entries of a layer
uniform bool inside;
uniform highp sampler2D palette; // colours of the entries; alpha 0 hides one
out vec3 shade;
void main() {
  vec3 place = position * unit, sight = normalize(eye - place);
  vec4 entry = texelFetch(palette, ivec2(int(code) & 255, int(code) >> 8), 0);
  bool surface = dot(normal, normal) > 0.1; // its normal is known
  float facing = surface ? dot(normalize(normal), sight) : 1.0;
  if (mode == 0) shade = color;
  else if (mode == 1) shade = surface ? 0.5 + 0.5 * normalize(normal) : vec3(0.55);
  else shade = entry.rgb * (0.68 + 0.32 * abs(facing));
  gl_Position = camera * vec4(place, 1.0);
  gl_PointSize = clamp(size / gl_Position.w, smallest, 60.0);
  if (entry.a == 0.0 || place.z > cut || (inside && facing < -0.05)) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
}`;
const POINT_FRAGMENT = `#version 300 es
precision highp float;
in vec3 shade;
out vec4 pixel;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.25) discard;
  pixel = vec4(shade, 1.0);
}`;
const LINE_VERTEX = `#version 300 es
in vec3 position, color;
uniform mat4 camera;
out vec3 shade;
void main() { shade = color; gl_Position = camera * vec4(position, 1.0); }`;
const LINE_FRAGMENT = `#version 300 es
precision highp float;
in vec3 shade;
out vec4 pixel;
void main() { pixel = vec4(shade, 1.0); }`;

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = false;
}

// ---- Data

async function unpack({ type, data }) {
  const text = atob(data), packed = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) packed[k] = text.charCodeAt(k);
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const arrays = { uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array };
  return new arrays[type](await new Response(plain).arrayBuffer());
}

// ---- Drawing

let gl, points, lines, position, normal, asked = false;

function program(vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(`the graphics driver refuses the drawing program. ${gl.getProgramInfoLog(made) ?? ""}`);
  return { made, array: gl.createVertexArray(), at: (name) => gl.getUniformLocation(made, name) };
}

function attribute({ made, array }, name, values, { normalized = false, integer = false } = {}) {
  const types = { Uint8Array: gl.UNSIGNED_BYTE, Int8Array: gl.BYTE, Uint16Array: gl.UNSIGNED_SHORT, Float32Array: gl.FLOAT };
  const where = gl.getAttribLocation(made, name), type = types[values.constructor.name];
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(where);
  if (integer) gl.vertexAttribIPointer(where, 1, type, 0, 0);
  else gl.vertexAttribPointer(where, 3, type, normalized, 0, 0);
}

function usePalette() { // colours of the current layer's entries, hidden ones transparent
  const layer = layers.get(state.layer), entries = layer?.entries ?? [{ color: [255, 255, 255] }];
  const pixels = new Uint8Array(256 * 4 * Math.ceil(entries.length / 256));
  entries.forEach((entry, code) => pixels.set([...entry.color, layer?.hidden.has(code) ? 0 : 255], 4 * code));
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, pixels.length / 1024, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  draw();
}

function useLayer(name) {
  state.layer = name;
  attribute(points, "code", layers.get(name)?.codes ?? new Uint8Array(scene.count), { integer: true });
  usePalette();
  drawLegend();
}

function buildLines() { // floor grid, axes, cameras
  const style = getComputedStyle(document.documentElement), places = [], colors = [];
  const color = (name) => style.getPropertyValue(name).trim().slice(1).match(/../g).map((part) => parseInt(part, 16) / 255);
  const line = (from, to, tint) => { places.push(...from, ...to); colors.push(...tint, ...tint); };
  const [width, depth] = scene.extent, cell = [1, 2, 5, 10, 20, 50, 100].find((metres) => Math.max(width, depth) / metres <= 20) ?? 500;
  ["x", "y", "z"].forEach((name, axis) => line([0, 0, 0], [0, 1, 2].map((k) => (k === axis ? axisLength() : 0)), color(`--${name}`)));
  for (let x = 0; x <= width + cell; x += cell) line([x, 0, 0], [x, Math.ceil(depth / cell) * cell, 0], color("--grid"));
  for (let y = 0; y <= depth + cell; y += cell) line([0, y, 0], [Math.ceil(width / cell) * cell, y, 0], color("--grid"));
  lines.plain = places.length / 3;
  for (const camera of scene.cameras) {
    const corner = (k) => camera.slice(3 * k, 3 * k + 3);
    for (let k = 1; k <= 4; k++) { line(corner(0), corner(k), color("--accent")); line(corner(k), corner((k % 4) + 1), color("--accent")); }
  }
  attribute(lines, "position", new Float32Array(places));
  attribute(lines, "color", new Float32Array(colors));
  lines.all = places.length / 3;
  byId("grid").textContent = `Grid ${cell} m`;
  draw();
}

const axisLength = () => Math.min(1, diagonal / 4);

function pose() { // the camera: where it is, its axes, and the matrix to clip space (by columns)
  const [ca, sa, ce, se] = [Math.cos(state.azimuth), Math.sin(state.azimuth), Math.cos(state.elevation), Math.sin(state.elevation)];
  const back = [ce * ca, ce * sa, se], right = [-sa, ca, 0], up = [-se * ca, -se * sa, ce];
  const eye = state.target.map((value, k) => value + state.distance * back[k]);
  const aspect = canvas.width / canvas.height, near = 0.02 * state.distance, far = state.distance + 3 * diagonal;
  const sx = 1 / (FIELD * Math.max(aspect, 1)), sy = sx * aspect, sz = (far + near) / (near - far);
  const shift = (axis) => -(axis[0] * eye[0] + axis[1] * eye[1] + axis[2] * eye[2]);
  const matrix = [0, 1, 2].flatMap((k) => [sx * right[k], sy * up[k], sz * back[k], -back[k]]);
  matrix.push(sx * shift(right), sy * shift(up), sz * shift(back) + (2 * far * near) / (near - far), -shift(back));
  return { eye, right, up, matrix, near, scale: 0.5 * canvas.height * sy }; // scale: pixels of a metre one metre away
}

function draw() {
  byId("found").hidden = true; // the point has moved away from it
  if (!asked) requestAnimationFrame(paint);
  asked = true;
}

function paint() {
  asked = false;
  const { eye, matrix, scale } = pose(), ratio = canvas.width / canvas.clientWidth;
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.useProgram(lines.made);
  gl.bindVertexArray(lines.array);
  gl.uniformMatrix4fv(lines.at("camera"), false, matrix);
  gl.drawArrays(gl.LINES, 0, state.cameras ? lines.all : lines.plain);
  gl.useProgram(points.made);
  gl.bindVertexArray(points.array);
  gl.uniformMatrix4fv(points.at("camera"), false, matrix);
  gl.uniform3fv(points.at("eye"), eye);
  gl.uniform1f(points.at("unit"), scene.step);
  gl.uniform1f(points.at("size"), 1.3 * scene.spacing * state.size * scale);
  gl.uniform1f(points.at("smallest"), 1.5 * ratio * Math.min(state.size, 1));
  gl.uniform1f(points.at("cut"), state.cut);
  gl.uniform1i(points.at("inside"), state.inside);
  gl.uniform1i(points.at("mode"), Math.min(modes.indexOf(state.mode), 2));
  gl.drawArrays(gl.POINTS, 0, scene.count);
  ["x", "y", "z"].forEach((name, axis) => {
    const tip = 1.07 * axisLength(), clip = [0, 1, 3].map((row) => matrix[4 * axis + row] * tip + matrix[12 + row]);
    const style = byId(`axis-${name}`).style;
    style.visibility = clip[2] > 0 ? "visible" : "hidden";
    style.transform = `translate(${(0.5 + clip[0] / clip[2] / 2) * canvas.clientWidth - 4}px, ${(0.5 - clip[1] / clip[2] / 2) * canvas.clientHeight - 8}px)`;
  });
}

function resize() {
  const ratio = Math.min(devicePixelRatio, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  byId("found").hidden = true;
  paint();
}

// ---- Which point is under the pointer

function pick(event) { // the nearest visible point within 7 pixels, or -1
  const { eye, matrix: m, near } = pose(), box = canvas.getBoundingClientRect();
  const x = (2 * (event.clientX - box.left)) / box.width - 1, y = 1 - (2 * (event.clientY - box.top)) / box.height;
  const layer = layers.get(state.layer);
  let found = -1, depth = Infinity;
  for (let k = 0; k < scene.count; k++) {
    const px = position[3 * k] * scene.step, py = position[3 * k + 1] * scene.step, pz = position[3 * k + 2] * scene.step;
    const w = m[3] * px + m[7] * py + m[11] * pz + m[15];
    if (w < near || w >= depth || pz > state.cut) continue;
    const dx = ((m[0] * px + m[4] * py + m[8] * pz + m[12]) / w - x) * box.width, dy = ((m[1] * px + m[5] * py + m[9] * pz + m[13]) / w - y) * box.height;
    if (dx * dx + dy * dy > 4 * 49 || layer?.hidden.has(layer.codes[k])) continue;
    const sight = [eye[0] - px, eye[1] - py, eye[2] - pz];
    const facing = normal[3 * k] * sight[0] + normal[3 * k + 1] * sight[1] + normal[3 * k + 2] * sight[2];
    if (state.inside && facing < -0.05 * 127 * Math.hypot(...sight)) continue;
    [found, depth] = [k, w];
  }
  return found;
}

const placeOf = (k) => [0, 1, 2].map((axis) => position[3 * k + axis] * scene.step);

function name(event) { // say what is under the pointer
  const k = pick(event), box = canvas.getBoundingClientRect(), note = byId("found");
  note.hidden = k < 0;
  if (k < 0) return;
  const said = [...layers.values()].map((layer) => `${title(layer.name)}: ${layer.entries[layer.codes[k]].name}`);
  const place = placeOf(k).map((value, axis) => (value + scene.low[axis]).toFixed(2));
  note.textContent = [...said, `x ${place[0]}  y ${place[1]}  z ${place[2]} m`].join("\n");
  const left = Math.min(event.clientX - box.left + 14, box.width - note.offsetWidth - 6);
  const top = Math.min(event.clientY - box.top + 14, box.height - note.offsetHeight - 6);
  note.style.transform = `translate(${Math.max(left, 6)}px, ${Math.max(top, 6)}px)`;
}

// ---- Buttons and legend

const title = (mode) => ({ colour: "Colour", normals: "Normals", instances: "Instances" })[mode] ?? mode;

function element(kind, className, text = "") {
  return Object.assign(document.createElement(kind), { className, textContent: text, ...(kind === "button" && { type: "button" }) });
}

function setMode(wanted) {
  const mode = wanted === "labels" ? modes[2] : wanted;
  if (!modes.includes(mode)) return;
  state.mode = mode;
  [...byId("modes").children].forEach((button, k) => button.setAttribute("aria-pressed", modes[k] === mode));
  byId("axes-key").hidden = mode !== "normals";
  byId("legend").classList.toggle("filter", !layers.has(mode)); // the colours on show are not the legend's
  if (layers.has(mode)) useLayer(mode);
  draw();
}

function drawLegend() {
  const layer = layers.get(state.layer);
  byId("classes").hidden = !layer;
  if (!layer) return;
  const { entries, hidden } = layer, change = () => { usePalette(); drawLegend(); };
  byId("classes-title").textContent = `${title(layer.name)} (${entries.length})`;
  byId("all").hidden = !hidden.size;
  byId("all").onclick = (event) => { event.preventDefault(); hidden.clear(); change(); };
  const rows = entries.slice(0, ROWS).map((entry, code) => {
    const row = element("li", ""), toggle = element("button", "entry"), only = element("button", "only", "only");
    const swatch = element("i", "");
    swatch.style.background = `rgb(${entry.color})`;
    toggle.append(swatch, element("span", "", entry.name), element("small", "", entry.points.toLocaleString("en")));
    toggle.setAttribute("aria-pressed", !hidden.has(code));
    toggle.title = `${entry.name}: show or hide`;
    toggle.onclick = () => { hidden.delete(code) || hidden.add(code); change(); };
    only.onclick = () => { entries.forEach((_, other) => hidden.add(other)); hidden.delete(code); change(); };
    only.ariaLabel = `only ${entry.name}`;
    row.append(toggle, only);
    return row;
  });
  if (entries.length > ROWS) rows.push(element("li", "more", `and ${entries.length - ROWS} smaller ones`));
  byId("legend").replaceChildren(...rows);
}

// ---- Mouse, touch and keys

function turn(dx, dy) {
  state.azimuth -= dx;
  state.elevation = Math.min(Math.max(state.elevation + dy, -Math.PI / 2), Math.PI / 2);
  draw();
}

function move(dx, dy) { // CSS pixels
  const { right, up, scale } = pose(), metres = (state.distance * canvas.width) / canvas.clientWidth / scale;
  state.target = state.target.map((value, k) => value - right[k] * dx * metres + up[k] * dy * metres);
  draw();
}

function zoom(factor) {
  state.distance = Math.min(Math.max(state.distance * factor, 0.02 * diagonal), 8 * diagonal);
  draw();
}

function setSize(power) {
  byId("size").value = power;
  state.size = 2 ** byId("size").value;
  draw();
}

function reset(change) {
  Object.assign(state, START, change);
  draw();
}

function listen() {
  const held = new Map(); // pointers that are down
  let timer, travelled = 0;
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, event);
    byId("found").hidden = true;
    travelled = 0;
  };
  canvas.onpointermove = (event) => {
    clearTimeout(timer);
    const before = held.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") timer = setTimeout(name, 40, event);
      return;
    }
    const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
    travelled += Math.hypot(dx, dy);
    const other = [...held.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    if (other) {
      const spread = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
      zoom(spread(before) / Math.max(spread(event), 1));
      move(dx / 2, dy / 2);
    } else if (event.buttons & 6 || event.shiftKey) move(dx, dy);
    else turn(dx * 0.006, dy * 0.006);
    held.set(event.pointerId, event);
  };
  canvas.onpointerup = (event) => {
    held.delete(event.pointerId);
    if (travelled < 6) name(event);
  };
  canvas.onpointercancel = (event) => held.delete(event.pointerId);
  canvas.onpointerleave = (event) => {
    clearTimeout(timer);
    if (event.pointerType === "mouse") byId("found").hidden = true;
  };
  canvas.oncontextmenu = (event) => event.preventDefault();
  canvas.ondblclick = (event) => {
    const k = pick(event);
    if (k >= 0) { state.target = placeOf(k); draw(); }
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY * (event.deltaMode ? 30 : 1))) * 0.0015));
  }, { passive: false });
  canvas.addEventListener("webglcontextlost", () => problem("The graphics memory was taken away. Load the page again."));
  const keys = {
    r: () => reset(), t: () => reset({ elevation: Math.PI / 2, azimuth: -Math.PI / 2 }),
    "+": () => setSize(+byId("size").value + 0.3), "-": () => setSize(+byId("size").value - 0.3),
    ArrowLeft: () => turn(-0.1, 0), ArrowRight: () => turn(0.1, 0), ArrowUp: () => turn(0, 0.1), ArrowDown: () => turn(0, -0.1),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
    if (modes[event.key - 1]) setMode(modes[event.key - 1]);
    else keys[event.key]?.();
  });
  byId("reset").onclick = keys.r;
  byId("top").onclick = keys.t;
  byId("size").oninput = () => setSize(byId("size").value);
  byId("cut").oninput = () => { const share = +byId("cut").value; state.cut = share < 1 ? share * scene.extent[2] : Infinity; draw(); };
  byId("inside").onchange = () => { state.inside = byId("inside").checked; draw(); };
  if (byId("cameras")) byId("cameras").onchange = () => { state.cameras = byId("cameras").checked; draw(); };
  addEventListener("hashchange", followAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", buildLines);
  new ResizeObserver(resize).observe(canvas);
}

function followAddress() { // page.html#mode=normals&cameras=1
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (wanted.has("mode")) setMode(wanted.get("mode"));
  if (wanted.has("cameras") && byId("cameras")) state.cameras = byId("cameras").checked = wanted.get("cameras") !== "0";
  draw();
}

async function start() {
  gl = canvas.getContext("webgl2", { antialias: true });
  if (!gl) return problem("This browser or its graphics driver offers no WebGL 2, which this page draws with. Another browser, or hardware acceleration in the settings, may help.");
  if (!("DecompressionStream" in window)) return problem("This browser is too old for this page: it cannot unpack the points. Browsers since 2023 can.");
  points = program(POINT_VERTEX, POINT_FRAGMENT);
  lines = program(LINE_VERTEX, LINE_FRAGMENT);
  gl.enable(gl.DEPTH_TEST);
  gl.clearColor(0, 0, 0, 0);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
  position = await unpack(scene.position);
  normal = await unpack(scene.normal);
  for (const layer of layers.values()) layer.codes = await unpack(layer.codes);
  attribute(points, "position", position);
  attribute(points, "color", await unpack(scene.color), { normalized: true });
  attribute(points, "normal", normal, { normalized: true });
  byId("modes").append(...modes.map((mode) => Object.assign(element("button", "", title(mode)), { onclick: () => setMode(mode) })));
  byId("settings").open = byId("classes").open = innerWidth > 760;
  canvas.width = canvas.clientWidth; // until the observer calls `resize`
  canvas.height = canvas.clientHeight;
  buildLines();
  useLayer(state.layer);
  setMode(scene.show);
  listen();
  followAddress();
}

start().catch((error) => problem(`The scene could not be drawn: ${error.message}`));
