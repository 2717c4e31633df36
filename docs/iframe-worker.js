// A browser starts no worker for a page that was opened from a folder, and the site's search is one: there it runs in a
// hidden frame instead. The search's own files look for the name IFrameWorker.
"use strict";
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentDocument, script = inner.createElement("script");
      inner.open().close();
      this.frame.contentWindow.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.isReady = new Promise((ready) => script.addEventListener("load", ready));
      script.src = url;
      inner.documentElement ? inner.documentElement.append(script) : inner.append(script);
    }

    postMessage(data) {
      this.isReady.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
