/* What the report does in a browser: tables that sort, and the viewer of pairs (on NiiVue, see viewer.py). */
"use strict";

/* --- tables: a click on a heading sorts by its column, a second one the other way round --- */

function sortKey(cell) {
  const text = cell.textContent.trim().replace(/−/g, "-").replace(/(\d),(?=\d{3})/g, "$1"); // as `format_number` writes
  const number = text.match(/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i);
  return number ? Number(number[0]) : text === "–" || text === "" ? null : text.toLowerCase();
}

function compareKeys(left, right, sign) {
  if (left === null || right === null) return (left === null) - (right === null); // what is not there stays last
  if (typeof left === typeof right) return sign * (typeof left === "number" ? left - right : left.localeCompare(right));
  return typeof left === "number" ? -1 : 1;
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    if (!button.textContent.trim()) button.setAttribute("aria-label", "Sort by this column");
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column]), row]);
      rows.sort(([left], [right]) => compareKeys(left, right, rising ? 1 : -1));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

/* --- viewer --- */

const VIEWS = { planes: "MULTIPLANAR", axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL", render: "RENDER" };
const STEPS = {
  ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowDown: [0, -1, 0], ArrowUp: [0, 1, 0], PageDown: [0, 0, -1], PageUp: [0, 0, 1],
}; // voxels towards the patient's right (left of the picture), front, head
const TURNS = { ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowDown: [0, -5], ArrowUp: [0, 5] }; // degrees, in 3D

function byId(id) {
  return document.getElementById(id);
}

/* One side, real or synthetic: a canvas with its choice of case. */
class Pane {
  constructor(side, content) {
    this.cases = content[side];
    this.classes = content.classes;
    this.canvas = byId(`canvas-${side}`);
    this.choice = byId(`case-${side}`);
    this.place = byId(`place-${side}`);
    this.choice.append(...this.cases.map((item, index) => new Option(item.name, index)));
    this.viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.95, 0.85, 0.2, 0.8], crosshairWidth: 0.4, crosshairWidthUnit: "percent", show3Dcrosshair: true,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true, multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID, dragAndDropEnabled: false, isNearestInterpolation: false, logLevel: "error",
      loadingText: "", viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
      scrollRequiresFocus: true, fontColor: [0.8, 0.8, 0.8, 1],
    });
    this.viewer.onLocationChange = (location) => this.tell(location);
  }

  get shown() {
    return this.cases[Number(this.choice.value)];
  }

  async start() {
    await this.viewer.attachToCanvas(this.canvas);
    this.canvas.addEventListener("pointerdown", () => this.canvas.focus({ preventScroll: true })); // the focused one leads
    await this.load();
  }

  async load() {
    const parts = [["image", "gray"], ["label", ""]].filter(([key]) => this.shown[key]);
    const volumes = [];
    for (const [key, colormap] of parts) {
      volumes.push(await niivue.NVImage.loadFromBase64({ base64: this.shown[key], name: `${key}.nii.gz`, colormap }));
    }
    [...this.viewer.volumes].forEach((volume) => this.viewer.removeVolume(volume));
    if (volumes[1]) volumes[1].setColormapLabel(labelColours(this.classes));
    volumes.forEach((volume) => this.viewer.addVolume(volume));
  }

  show(settings) {
    const [image, label] = this.viewer.volumes;
    image.cal_min = (this.shown.white * settings.dark) / 100;
    image.cal_max = Math.max((this.shown.white * settings.bright) / 100, image.cal_min + 1);
    if (label) label.opacity = settings.labels ? settings.opacity / 100 : 0;
    this.viewer.opts.sliceType = niivue.SLICE_TYPE[VIEWS[settings.view]];
    this.viewer.updateGLVolume(); // draws, once: without a graphics card that takes long
    this.viewer.createOnLocationChange();
  }

  /* To a place (mm), seen whole and from the front; drawn with the next `show`. */
  lookAt(mm) {
    this.viewer.scene.crosshairPos = this.viewer.mm2frac(mm);
    this.viewer.scene.pan2Dxyzmm = [0, 0, 0, 1];
    Object.assign(this.viewer.scene, { renderAzimuth: 110, renderElevation: 15, volScaleMultiplier: 1 });
  }

  tell(location) {
    const [image, label] = location.values;
    const name = label && Math.round(label.value) ? this.classes[Math.round(label.value) - 1].name : "background";
    const words = [..."xyz"].map((axis, k) => `${axis} ${location.mm[k].toFixed(1)}`).join(", ");
    const brightness = Math.round((100 * image.value) / this.shown.white);
    this.place.textContent = `${words} mm · brightness ${brightness} %${this.shown.label ? ` · ${name}` : ""}`;
  }
}

function labelColours(classes) {
  const channel = (at) => [0, ...classes.map(({ colour }) => parseInt(colour.slice(at, at + 2), 16))];
  const names = ["background", ...classes.map(({ name }) => name)];
  return { R: channel(1), G: channel(3), B: channel(5), A: [0, ...classes.map(() => 255)], I: names.map((_, k) => k), labels: names };
}

/* The settings of both panes, as the controls have them. */
function settingsOf() {
  const number = (id) => Number(byId(id).value);
  return {
    view: byId("view").value, labels: byId("labels").checked, opacity: number("opacity"), dark: number("dark"), bright: number("bright"),
  };
}

async function startViewer(content) {
  const panes = ["real", "synthetic"].filter((side) => content[side].length).map((side) => new Pane(side, content));
  byId("viewer").hidden = false; // before NiiVue asks how large the canvases are
  for (const pane of panes) await pane.start();
  const viewers = panes.map((pane) => pane.viewer);
  viewers.forEach((viewer) => viewer.broadcastTo(viewers, { crosshair: true, zoomPan: true, "3d": true }));
  const show = () => panes.forEach((pane) => pane.show(settingsOf()));
  const choose = async (pane, index) => {
    pane.choice.value = (index + pane.cases.length) % pane.cases.length;
    await pane.load();
    pane.show(settingsOf());
  };
  const restart = () => {
    byId("controls").reset();
    panes.forEach((pane) => pane.lookAt(panes[0].shown.start));
    show();
  };
  const flip = (id) => byId(id).click();
  const nextView = () => {
    byId("view").selectedIndex = (byId("view").selectedIndex + 1) % byId("view").options.length;
    show();
  };
  const onKey = (pane) => (event) => {
    const index = Number(pane.choice.value), keys = { l: () => flip("labels"), v: nextView, r: restart, n: () => choose(pane, index + 1), p: () => choose(pane, index - 1) };
    const turn = byId("view").value === "render" && TURNS[event.key], step = STEPS[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !(turn || step || keys[event.key])) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // NiiVue has other keys
    if (turn) pane.viewer.setRenderAzimuthElevation(pane.viewer.scene.renderAzimuth + turn[0], pane.viewer.scene.renderElevation + turn[1]);
    else if (step) pane.viewer.moveCrosshairInVox(...step);
    else keys[event.key]();
  };
  panes.forEach((pane) => {
    pane.choice.addEventListener("change", () => choose(pane, Number(pane.choice.value)));
    pane.canvas.addEventListener("keydown", onKey(pane), { capture: true });
  });
  byId("controls").addEventListener("input", show);
  byId("restart").addEventListener("click", restart);
  restart();
}

document.querySelectorAll("table").forEach(makeSortable);
const volumes = byId("volumes");
if (volumes && document.createElement("canvas").getContext("webgl2")) {
  startViewer(JSON.parse(volumes.textContent)).catch((error) => {
    byId("viewer").hidden = true; // the pictures remain
    console.error(error);
  });
}
