// Inspects a picture that was dropped, chosen, or taken with the camera.

import { $, element } from "/console/dom.js";
import { ask } from "/console/feed.js";
import { service } from "/console/verdicts.js";

export class Inspecting {
  /** `onAnswer(record, urls)` gets the answer and the URLs of its pictures. */
  constructor(store, onAnswer) {
    this.store = store;
    this.onAnswer = onAnswer;
    this.urls = [];
    this.#listen();
  }

  /** Opens the dialog. */
  show() {
    this.refresh();
    if (!$("inspect").open) this.last = this.#product();
    this.#select();
    $("inspect-file").value = "";
    $("camera").hidden = !navigator.mediaDevices || Boolean(this.stream);
    this.#say("");
    if (!$("inspect").open) $("inspect").showModal();
  }

  /** Lists the products that are ready. */
  refresh() {
    const box = $("inspect-product");
    const names = this.#ready();
    if (names.join() === [...box.options].map((option) => option.value).join()) return;
    box.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    this.#select();
  }

  #select() {
    const product = this.#product();
    $("inspect-product").value = product ?? "";
    if ($("inspect").open) this.last ??= product; // none was ready when it was opened
    for (const id of ["inspect-file", "camera", "shoot"]) $(id).disabled = !product;
  }

  #ready() {
    return this.store.products.filter((product) => product.serving).map((product) => product.name);
  }

  /** The one in the dialog while it is open: no other takes its place when it is not ready. Otherwise the product
   * in view, the last used one, the first. */
  #product() {
    const names = this.#ready();
    if ($("inspect").open && this.last) return names.find((name) => name === this.last);
    return [this.store.product, this.last].find((name) => names.includes(name)) ?? names[0];
  }

  async #inspect(files, product) {
    this.last = product;
    for (const file of files) {
      this.#say(`Inspecting ${file.name} as ${product}…`);
      try {
        await this.#send(file, product);
      } catch (error) {
        this.show();
        return this.#say(`${file.name}: ${error.message}`, "error");
      }
    }
    return this.#close();
  }

  async #send(file, product) {
    const name = file.name.replace(/[^\x20-\x7e]/g, "?").slice(0, 128);
    const query = new URLSearchParams({ product, include: "heatmap,regions", frame_id: name });
    const answer = await ask(`/v1/inspect?${query}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    const record = await answer.json();
    Object.assign(record, { id: "", order: 0, at: service.now(), pictures: true, guard_band: this.#guardBand(product) });
    this.urls.forEach(URL.revokeObjectURL);
    this.urls = [];
    this.onAnswer(record, { frame: await this.#frame(file, record), heatmap: `data:image/png;base64,${record.heatmap.data}` });
  }

  #guardBand(product) {
    return this.store.products.find((one) => one.name === product)?.serving?.guard_band ?? 0;
  }

  /** The file itself if the browser can show it; a TIFF is fetched from the service as JPEG. */
  async #frame(file, record) {
    const url = URL.createObjectURL(file);
    this.urls.push(url);
    try {
      const image = new Image();
      image.src = url;
      await image.decode();
      return url;
    } catch {
      const { records: [same] } = await (await ask(`/v1/verdicts?request_id=${encodeURIComponent(record.request_id)}`)).json();
      return same ? `/v1/verdicts/${same.id}/frame` : url; // without it, the page says that there is no picture
    }
  }

  #say(text, kind = "") {
    $("inspect-note").textContent = text;
    $("inspect-note").dataset.kind = kind;
  }

  #close() {
    this.#stopCamera();
    $("inspect").close();
  }

  async #startCamera() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    } catch (error) {
      return this.#say(`The camera can't be used: ${error.message}`, "error");
    }
    this.#stopCamera(); // it was asked for twice
    this.stream = stream;
    if (!$("inspect").open) return this.#stopCamera(); // closed meanwhile
    $("video").srcObject = stream;
    for (const id of ["video", "shoot"]) $(id).hidden = false;
    $("camera").hidden = true;
    return $("video").play();
  }

  #stopCamera() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    $("video").srcObject = null;
    for (const id of ["video", "shoot"]) $(id).hidden = true;
  }

  async #shoot() {
    const video = $("video");
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    await this.#inspect([new File([blob], `camera-${new Date().toISOString().slice(11, 19)}.jpg`)], $("inspect-product").value);
  }

  #listen() {
    $("inspect-product").addEventListener("change", (event) => {
      this.last = event.target.value;
      this.#select();
    });
    $("inspect-file").addEventListener("change", (event) => this.#inspect([...event.target.files], $("inspect-product").value));
    $("camera").addEventListener("click", () => this.#startCamera());
    $("shoot").addEventListener("click", () => this.#shoot());
    $("inspect").addEventListener("close", () => this.#stopCamera());
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      $("drop-product").textContent = this.#product() ?? "nothing: no product is ready";
      $("drop").hidden = false;
    });
    addEventListener("dragleave", (event) => event.relatedTarget || ($("drop").hidden = true));
    addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      $("drop").hidden = true;
      const product = this.#product();
      if (product) this.#inspect([...event.dataTransfer.files], product);
    });
    addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length && this.#product()) this.#inspect(files, this.#product());
    });
  }
}
