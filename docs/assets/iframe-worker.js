// A page that is opened from a folder may start no Worker: there the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.inside = new Promise((resolve, reject) => {
        frame.onload = () => {
          const inside = frame.contentWindow
          const load = src => new Promise((loaded, failed) => {
            const script = inside.document.createElement("script")
            Object.assign(script, { src, onload: loaded, onerror: failed })
            inside.document.head.append(script)
          })
          inside.importScripts = (...urls) => Promise.all(urls.map(load))
          inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
          load(new URL(url, document.baseURI).href).then(() => resolve(inside), reject)
        }
      })
      document.body.append(frame)
    }

    postMessage(data) {
      this.inside.then(inside => inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
