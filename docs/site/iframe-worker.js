// The search runs in a worker, and browsers start none for a page that lies in a folder. There a
// hidden frame does its work. The name of this file tells mkdocs-material not to load its own.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const page = this.inside.document;
      page.open();
      this.inside.postMessage = (data) => {
        this.dispatchEvent(new MessageEvent("message", { data }));
      };
      this.loaded = new Promise((done) => this.inside.addEventListener("load", done));
      page.write(`<!doctype html><script src="${url}"></` + "script>");
      page.close();
    }

    postMessage(data) {
      this.loaded.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
