// The page: cards in the order asked for, and the chosen one in 3D.
"use strict";

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const DATA = JSON.parse(document.getElementById("data").textContent);
const FACES = DATA.faces.map((text) => new Uint16Array(bytes(text)));
const viewer = meshViewer(document.getElementById("viewer"));
const grid = document.getElementById("grid"), sorts = document.getElementById("sorts");
let order = { key: "name", rising: true }, chosen = null;

function decode(mesh) {
  const steps = new Int16Array(bytes(mesh.steps));
  const positions = Float32Array.from(steps, (s, i) => mesh.origin[i % 3] + mesh.pitch * s);
  return { positions, faces: FACES[mesh.faces], colour: mesh.colour };
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const shown = (key, value) => (key === "error" ? `${value.toFixed(1)}\u00a0mm` : `${value.toFixed(0)}\u00a0%`);

function choose(entry) {
  chosen = entry;
  document.getElementById("picture").src = entry.picture;
  document.getElementById("caption").textContent = entry.name;
  document.getElementById("note").textContent = entry.note;
  const files = document.getElementById("files");
  files.href = entry.link;
  viewer.show(entry.meshes.map(decode));
  for (const card of grid.children) card.classList.toggle("chosen", card.dataset.name === entry.name);
}

function sorted() {
  const sign = order.rising ? 1 : -1;
  return [...DATA.entries].sort((a, b) => {
    if (order.key === "name") return sign * a.name.localeCompare(b.name, "en", { numeric: true });
    const [x, y] = [a.values[order.key], b.values[order.key]];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y) || a.name.localeCompare(b.name);
  });
}

function draw() {
  grid.replaceChildren(...sorted().map((entry) => {
    const known = DATA.keys.filter((key) => entry.values[key] !== null);
    const values = known.map((key) => `${key} ${shown(key, entry.values[key])}`);
    const card = element("button", { className: "card", type: "button", onclick: () => choose(entry) },
      element("img", { src: entry.picture, alt: entry.name, loading: "lazy" }),
      element("strong", { textContent: entry.name }),
      element("span", { textContent: values.join(" · ") }));
    card.dataset.name = entry.name;
    card.classList.toggle("chosen", entry === chosen);
    return card;
  }));
  sorts.replaceChildren("sort by ", ...["name", ...DATA.keys].map((key) => {
    const active = key === order.key;
    const arrow = active ? (order.rising ? " ↑" : " ↓") : "";
    const button = element("button", { type: "button", textContent: key + arrow, className: active ? "active" : "" });
    button.onclick = () => {
      order = { key, rising: active ? !order.rising : key === "name" };
      draw();
    };
    return button;
  }));
}

draw();
choose(sorted()[0]);
