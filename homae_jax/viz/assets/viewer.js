// Turns meshes with the mouse: WebGL, or a plain canvas where there is none.
// A scene is {meshes: [{positions: Float32Array, faces: Uint16Array, colour: [r, g, b]}]}
// in the OpenCV camera frame (y down, z forward), metres.
"use strict";

const CREASE = Math.cos((35 * Math.PI) / 180);

function corners(mesh) {
  // Position and normal of every face's corners; smooth, except across creases.
  const { positions: p, faces: f } = mesh;
  const flat = new Float32Array(f.length), total = new Float32Array(p.length);
  for (let i = 0; i < f.length; i += 3) {
    const [a, b, c] = [3 * f[i], 3 * f[i + 1], 3 * f[i + 2]];
    const u = [0, 1, 2].map((k) => p[b + k] - p[a + k]);
    const v = [0, 1, 2].map((k) => p[c + k] - p[a + k]);
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (let k = 0; k < 3; k++) {
      flat[i + k] = n[k];
      total[a + k] += n[k]; total[b + k] += n[k]; total[c + k] += n[k];
    }
  }
  const unit = (x, y, z) => { const l = Math.hypot(x, y, z) || 1; return [x / l, y / l, z / l]; };
  const out = new Float32Array(6 * f.length);
  for (let i = 0; i < f.length; i++) {
    const face = i - (i % 3), at = 3 * f[i];
    const hard = unit(flat[face], flat[face + 1], flat[face + 2]);
    const soft = unit(total[at], total[at + 1], total[at + 2]);
    const same = hard[0] * soft[0] + hard[1] * soft[1] + hard[2] * soft[2] > CREASE;
    out.set([p[at], p[at + 1], p[at + 2], ...(same ? soft : hard)], 6 * i);
  }
  return out;
}

function boundingSphere(meshes) {
  const low = [1e9, 1e9, 1e9], high = [-1e9, -1e9, -1e9];
  const each = (act) => meshes.forEach((m) => {
    for (let i = 0; i < m.positions.length; i += 3) act(m.positions.subarray(i, i + 3));
  });
  each((q) => { for (let k = 0; k < 3; k++) { low[k] = Math.min(low[k], q[k]); high[k] = Math.max(high[k], q[k]); } });
  const center = [0, 1, 2].map((k) => (low[k] + high[k]) / 2);
  let radius = 1e-6;
  each((q) => { radius = Math.max(radius, Math.hypot(q[0] - center[0], q[1] - center[1], q[2] - center[2])); });
  return { center, radius };
}

function rotation(yaw, pitch) {
  // Model to view, rows; starts as the camera sees it, with y up and z to the viewer.
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const turn = [[cy, 0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]];
  return turn.map(([x, y, z]) => [x, -y, -z]);
}

const VERTEX = `
attribute vec3 place, normal;
uniform mat3 turn; uniform vec3 center; uniform float radius, zoom, aspect;
varying vec3 n;
void main() {
  vec3 q = turn * (place - center) / radius;
  n = turn * normal;
  float w = 4.0 - q.z;
  gl_Position = vec4(q.xy * zoom * 3.6 * vec2(min(1.0, 1.0 / aspect), min(1.0, aspect)), -q.z * 0.9, w);
}`;
const FRAGMENT = `
precision mediump float;
uniform vec3 colour; varying vec3 n;
void main() {
  vec3 m = normalize(n);
  if (m.z < 0.0) m = -m;
  float key = max(dot(m, normalize(vec3(-0.45, 0.75, 0.6))), 0.0);
  float fill = max(dot(m, normalize(vec3(0.85, 0.1, 0.4))), 0.0);
  float shine = pow(max(dot(m, normalize(vec3(-0.25, 0.42, 0.87))), 0.0), 24.0);
  float light = 0.40 + 0.24 * (0.5 + 0.5 * m.y) + 0.52 * key + 0.16 * fill;
  float rim = 1.0 - 0.35 * pow(1.0 - m.z, 3.0);
  gl_FragColor = vec4(colour * light * rim + 0.12 * shine, 1.0);
}`;

function glPainter(canvas) {
  const gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  const at = (name) => gl.getUniformLocation(program, name);
  let buffers = [];
  return {
    kind: "webgl",
    load(meshes) {
      buffers.forEach((b) => gl.deleteBuffer(b.buffer));
      buffers = meshes.map((mesh) => {
        const data = corners(mesh), buffer = gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
        gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
        return { buffer, count: data.length / 6, colour: mesh.colour.map((c) => c / 255) };
      });
    },
    paint({ turn, sphere, zoom }) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0.968, 0.968, 0.961, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const columns = [0, 1, 2].flatMap((k) => turn.map((row) => row[k]));
      gl.uniformMatrix3fv(at("turn"), false, columns);
      gl.uniform3fv(at("center"), sphere.center);
      gl.uniform1f(at("radius"), sphere.radius);
      gl.uniform1f(at("zoom"), zoom);
      gl.uniform1f(at("aspect"), canvas.width / canvas.height);
      for (const { buffer, count, colour } of buffers) {
        gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
        [["place", 0], ["normal", 12]].forEach(([name, offset]) => {
          const index = gl.getAttribLocation(program, name);
          gl.enableVertexAttribArray(index);
          gl.vertexAttribPointer(index, 3, gl.FLOAT, false, 24, offset);
        });
        gl.uniform3fv(at("colour"), colour);
        gl.drawArrays(gl.TRIANGLES, 0, count);
      }
    },
  };
}

function canvasPainter(canvas) {
  // Far faces first; good enough where there is no WebGL.
  const pen = canvas.getContext("2d");
  let meshes = [];
  return {
    kind: "canvas",
    load(given) { meshes = given; },
    paint({ turn, sphere, zoom }) {
      const { width, height } = canvas, unit = 0.45 * Math.min(width, height) * zoom;
      pen.fillStyle = "rgb(247,247,245)";
      pen.fillRect(0, 0, width, height);
      const faces = [];
      for (const { positions: p, faces: f, colour } of meshes) {
        const seen = new Float32Array(p.length);
        for (let i = 0; i < p.length; i += 3) {
          const q = [0, 1, 2].map((k) => (p[i + k] - sphere.center[k]) / sphere.radius);
          const v = turn.map((row) => row[0] * q[0] + row[1] * q[1] + row[2] * q[2]);
          const s = (unit * 4) / (4 - v[2]);
          seen.set([width / 2 + s * v[0], height / 2 - s * v[1], v[2]], i);
        }
        for (let i = 0; i < f.length; i += 3) {
          const [a, b, c] = [3 * f[i], 3 * f[i + 1], 3 * f[i + 2]];
          const area = (seen[b] - seen[a]) * (seen[c + 1] - seen[a + 1]) - (seen[c] - seen[a]) * (seen[b + 1] - seen[a + 1]);
          const slope = Math.hypot(seen[b + 2] - seen[a + 2], seen[c + 2] - seen[a + 2]) * unit;
          const light = 0.5 + 0.55 * (Math.abs(area) / (Math.abs(area) + slope * 6 + 1e-6));
          faces.push([seen[a + 2] + seen[b + 2] + seen[c + 2], a, b, c, seen, colour, light]);
        }
      }
      faces.sort((one, two) => one[0] - two[0]);
      for (const [, a, b, c, s, colour, light] of faces) {
        pen.fillStyle = pen.strokeStyle = `rgb(${colour.map((x) => Math.round(Math.min(255, x * light)))})`;
        pen.beginPath();
        pen.moveTo(s[a], s[a + 1]); pen.lineTo(s[b], s[b + 1]); pen.lineTo(s[c], s[c + 1]);
        pen.closePath(); pen.fill(); pen.stroke();
      }
    },
  };
}

function meshViewer(canvas) {
  const painter = glPainter(canvas) || canvasPainter(canvas);
  const state = { yaw: 0, pitch: 0, zoom: 1, sphere: { center: [0, 0, 0], radius: 1 } };
  let waiting = false;
  function paint() {
    waiting = false;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.max(1, Math.round(n * ratio)));
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    painter.paint({ ...state, turn: rotation(state.yaw, state.pitch) });
  }
  const ask = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };
  let last = null;
  canvas.addEventListener("pointerdown", (e) => {
    last = [e.clientX, e.clientY];
    if (e.isTrusted) canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", (e) => {
    if (!last || !e.buttons) return;
    state.yaw += 0.008 * (e.clientX - last[0]);
    state.pitch = Math.max(-1.6, Math.min(1.6, state.pitch + 0.008 * (e.clientY - last[1])));
    last = [e.clientX, e.clientY];
    ask();
  });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    state.zoom = Math.max(0.3, Math.min(8, state.zoom * Math.exp(-0.0012 * e.deltaY)));
    ask();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(state, { yaw: 0, pitch: 0, zoom: 1 }); ask(); });
  canvas.addEventListener("keydown", (e) => {
    const turn = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[e.key];
    if (!turn) return;
    e.preventDefault();
    state.yaw += turn[0]; state.pitch += turn[1];
    ask();
  });
  window.addEventListener("resize", ask);
  return {
    kind: painter.kind,
    state,
    paint,
    show(meshes) { state.sphere = boundingSphere(meshes); painter.load(meshes); ask(); },
  };
}
