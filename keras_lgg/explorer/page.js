"use strict"
// The page of keras_lgg's explorer. Python made the figures and the numbers; this shows those of one
// layer and epoch, and what is selected. `parts` are the models of bokeh that it fills.

const explorer = {
  depth: 0, // of the deepest network
  epoch: 0,
  drawn: [], // of each network the places that its nodes have now

  start(parts) {
    this.parts = parts
    this.data = JSON.parse(document.getElementById("data").textContent)
    this.rank = [] // of each sample, in the matrix
    this.data.order.forEach((sample, rank) => { this.rank[sample] = rank })
    this.depths = Math.max(...this.data.networks.map(network => network.layers.length))
    this.epochs = Math.max(...this.data.networks.map(network => network.epochs.length))
    this.epoch = this.epochs - 1
    for (const name of ["depth", "epoch"]) {
      document.getElementById(name)?.addEventListener("input", event => {
        this[name] = Number(event.target.value)
        this.show()
      })
    }
    // Before bokeh hears of it.
    document.addEventListener("pointermove", event => { this.pointer = event }, true)
    this.fillLegend()
    this.fillKeys()
    this.show()
  },

  // ---- what is shown -------------------------------------------------------------------------

  show() {
    this.frames = this.data.networks.map(network => this.frameOf(network))
    this.showGraphs()
    this.frames.forEach((frame, i) => {
      const before = this.parts.images[i].data.image[0] // whose type is bokeh's own
      const n = this.data.order.length
      this.parts.images[i].data = {image: [new before.constructor(this.imageOf(frame), [n, n])]}
    })
    this.showCurves()
    this.showNames()
    this.showSuspects()
    this.showSelected()
  },

  // Which layer and epoch of a network are shown: those of a shorter one are spread along the longest.
  layerOf(network) {
    return spreadIndex(this.depth, this.depths, network.layers.length)
  },

  epochOf(network) {
    return spreadIndex(this.epoch, this.epochs, network.epochs.length)
  },

  frameOf(network, layer = this.layerOf(network)) {
    const frame = network.frames[this.epochOf(network)][layer]
    if (!frame.decoded) {
      frame.decoded = {}
      for (const [name, type] of Object.entries(TYPES)) {
        if (frame[name] !== undefined) frame.decoded[name] = decode(frame[name], type)
      }
    }
    return frame.decoded
  },

  showGraphs() {
    const {nodes} = this.parts
    const targets = this.frames.map(frame => frame.places)
    const starts = this.drawn.length ? this.drawn : targets
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches
    const time = this.drawn.length && !calm ? 400 : 0
    const run = this.run = {} // a later one takes over
    const began = performance.now()
    const step = now => {
      if (this.run !== run) return
      const part = time ? Math.min(1, (now - began) / time) : 1
      const eased = part * part * (3 - 2 * part)
      this.drawn = targets.map((target, i) => target.map((to, j) => starts[i][j] + eased * (to - starts[i][j])))
      this.drawNodes(nodes)
      this.drawEdges()
      if (part < 1) requestAnimationFrame(step)
      else document.body.dataset.shown = `${this.epoch}/${this.depth}`
    }
    delete document.body.dataset.shown
    step(began)
  },

  drawNodes(nodes) {
    const {classes, looks, order, size} = this.data
    const samples = order.map((_, sample) => sample)
    const look = samples.map(sample => looks[classes ? classes[sample] : 0])
    const data = {
      color: look.map(([color]) => color),
      marker: look.map(([, marker]) => marker),
      size: look.map(([, , , factor]) => size * factor),
    }
    this.drawn.forEach((places, network) => {
      data[`x${network}`] = samples.map(sample => places[2 * sample])
      data[`y${network}`] = samples.map(sample => places[2 * sample + 1])
    })
    nodes.data = data
  },

  // From each sample to its nearest ones, once where two are near each other; and the rings.
  drawEdges() {
    const {k, strength: [low, high]} = this.data
    const selected = new Set(this.selection())
    this.frames.forEach((frame, network) => {
      const places = this.drawn[network]
      const data = {x0: [], y0: [], x1: [], y1: [], alpha: []}
      const seen = new Set()
      frame.neighbours.forEach((b, place) => {
        const a = Math.floor(place / k)
        const edge = a < b ? `${a},${b}` : `${b},${a}`
        if (seen.has(edge) || frame.near[place] <= 0) return
        seen.add(edge)
        data.x0.push(places[2 * a])
        data.y0.push(places[2 * a + 1])
        data.x1.push(places[2 * b])
        data.y1.push(places[2 * b + 1])
        const weight = high > low ? (frame.near[place] - low) / (high - low) : 1
        const faint = 0.06 + 0.44 * weight * weight
        data.alpha.push(!selected.size ? faint : selected.has(a) || selected.has(b) ? 0.9 : 0.3 * faint)
      })
      this.parts.edges[network].data = data
      const suspects = Array.from(frame.suspects ?? [])
      this.parts.rings[network].data = {
        x: suspects.map(sample => places[2 * sample]),
        y: suspects.map(sample => places[2 * sample + 1]),
        alpha: suspects.map(sample => !selected.size || selected.has(sample) ? 1 : 0.3),
      }
    })
  },

  imageOf(frame) {
    const n = this.data.order.length
    const low = this.data.signed ? -1 : 0
    const image = new Float32Array(n * n).fill(1)
    let place = 0
    for (let row = 0; row < n; row++) {
      for (let column = row + 1; column < n; column++) {
        image[row * n + column] = image[column * n + row] = low + frame.levels[place++] * (1 - low) / 255
      }
    }
    return image
  },

  showCurves() {
    this.data.networks.forEach((network, i) => {
      const last = network.layers.length - 1
      const data = {depth: network.layers.map((_, layer) => last ? layer * (this.depths - 1) / last : 0)}
      for (const [measure, values] of Object.entries(network.measures)) {
        data[measure] = values[this.epochOf(network)]
      }
      this.parts.curves[i].data = data
    })
    this.parts.places.forEach(place => { place.location = this.depth })
  },

  showNames() {
    const {networks} = this.data
    const named = networks.map(network => {
      const epoch = network.epochs[this.epochOf(network)]
      return network.layers[this.layerOf(network)] + (epoch === null ? "" : `, epoch ${epoch}`)
    })
    document.querySelectorAll(".layer").forEach(each => { each.textContent = named[each.dataset.network] })
    const same = named.every(name => name === named[0])
    const where = same ? named[0] : named.map((name, i) => `${networks[i].name}: ${name}`).join(" · ")
    document.getElementById("where").textContent = `${this.depth + 1} of ${this.depths}: ${where}`
  },

  showSuspects() {
    const box = document.getElementById("suspects")
    if (!box) return
    box.replaceChildren(...this.data.networks.flatMap((network, i) => {
      const {suspects, against, votes} = this.frames[i]
      const layers = network.layers.map((_, layer) => new Set(this.frameOf(network, layer).suspects))
      const items = Array.from(suspects, sample => {
        const often = layers.filter(each => each.has(sample)).length
        const note = `${against[sample]} of ${this.data.k} are of another class, mostly `
          + `${this.data.names[votes[sample]]}; so at ${often} of ${layers.length} layers`
        const button = this.button(sample, 34, note)
        if (!this.data.picture) button.append(tag("span", {className: "caption"}, this.data.captions[sample].slice(0, 80)))
        return tag("li", {}, button)
      })
      const name = this.data.networks.length > 1 ? `${network.name}: ` : ""
      const title = tag("h3", {}, `${name}${suspects.length} at ${network.layers[this.layerOf(network)]}`)
      return [title, tag("ol", {}, ...items)]
    }))
  },

  // ---- what is selected ----------------------------------------------------------------------

  selection() {
    return this.parts.nodes.selected.indices
  },

  select(samples) {
    this.parts.nodes.selected.indices = [...new Set(samples)]
  },

  chosen() {
    this.drawEdges()
    this.showSelected()
  },

  showSelected() {
    const samples = this.selection()
    const n = this.data.order.length
    const alpha = samples.length > 8 ? Math.max(0.08, 2 / samples.length) : 1
    this.parts.bands.data = {
      place: samples.map(i => this.rank[i] + 0.5),
      height: samples.map(i => n - this.rank[i] - 0.5),
      alpha: samples.map(() => alpha),
    }
    const box = document.getElementById("selected")
    if (!samples.length) {
      box.replaceChildren(tag("p", {className: "faint"}, "None yet. Click on a node, a pair, or a sample of a list."))
      return
    }
    const clear = tag("button", {type: "button", id: "clear", onclick: () => this.select([])}, "✕ none")
    const others = samples.slice(1, 60).map(i => this.button(i, 28))
    box.replaceChildren(
      tag("div", {className: "head"}, this.described(samples[0], 96), clear),
      ...(others.length ? [tag("h3", {}, `and ${samples.length - 1} more`), tag("div", {className: "head"}, ...others)] : []),
      tag("h3", {}, `Its ${this.data.k} nearest at each layer`),
      tag("div", {className: "scroll"}, this.table(samples[0])),
    )
  },

  // The neighbours of a sample, a line for each layer.
  table(sample) {
    const {k, networks} = this.data
    const lines = networks.flatMap(network => network.layers.map((name, layer) => {
      const frame = this.frameOf(network, layer)
      const title = networks.length > 1 ? `${network.name}: ${name}` : name
      const cells = Array.from({length: k}, (_, place) => {
        const other = frame.neighbours[sample * k + place]
        return tag("td", {}, this.button(other, 36, frame.near[sample * k + place].toFixed(2)))
      })
      const shown = layer === this.layerOf(network) ? "shown" : ""
      return tag("tr", {className: shown}, tag("th", {scope: "row"}, title), ...cells)
    }))
    return tag("table", {id: "neighbours"}, tag("tbody", {}, ...lines))
  },

  // A cell of a matrix, of which both samples are selected.
  tapped(event) {
    const pair = this.pairAt(event.x, event.y)
    if (pair) this.select(pair)
  },

  // A frame in a matrix: all samples of its lines and columns.
  framed(event) {
    const {type, x0, x1, y0, y1} = event.geometry
    if (!event.final || type !== "rect") return
    const n = this.data.order.length
    const inside = (low, high) => this.data.order.slice(Math.max(0, Math.floor(low)), Math.max(0, Math.ceil(high)))
    this.select([...inside(Math.min(x0, x1), Math.max(x0, x1)), ...inside(n - Math.max(y0, y1), n - Math.min(y0, y1))])
  },

  pairAt(x, y) {
    const n = this.data.order.length
    const pair = [this.data.order[Math.floor(n - y)], this.data.order[Math.floor(x)]]
    return pair.includes(undefined) ? null : pair
  },

  // A place in a curve: the layer there.
  went(event) {
    const depth = Math.round(Math.min(Math.max(event.x, 0), this.depths - 1))
    const slider = document.getElementById("depth")
    slider.value = depth
    slider.dispatchEvent(new Event("input"))
  },

  // ---- what one points at --------------------------------------------------------------------

  pointed(kind, network, event) {
    if (kind === "graph") {
      const sample = this.nodeAt(network, event)
      this.tell(sample === null ? [] : [this.described(sample, 96)])
      return
    }
    const pair = this.pairAt(event.x, event.y)
    if (!pair) return this.left()
    const cosine = this.cosineOf(network, ...pair)
    this.tell([tag("div", {}, `cosine ${cosine.toFixed(2)}`), ...pair.map(sample => this.described(sample, 48))])
  },

  left() {
    this.tell([])
  },

  nodeAt(network, {x, y}) {
    const places = this.drawn[network]
    const range = this.parts.graphs[network].x_range
    const reach = 0.025 * Math.abs(range.end - range.start)
    let [best, distance] = [null, reach * reach]
    for (let i = 0; i < places.length / 2; i++) {
      const found = (places[2 * i] - x) ** 2 + (places[2 * i + 1] - y) ** 2
      if (found < distance) [best, distance] = [i, found]
    }
    return best
  },

  cosineOf(network, a, b) {
    const n = this.data.order.length
    const image = this.parts.images[network].data.image[0]
    return image[this.rank[a] * n + this.rank[b]]
  },

  tell(children) {
    const tip = document.getElementById("tip")
    tip.replaceChildren(...children)
    tip.hidden = !children.length
    if (tip.hidden || !this.pointer) return
    const {clientX, clientY} = this.pointer
    const {width, height} = tip.getBoundingClientRect()
    tip.style.left = `${Math.max(4, clientX + 16 + width > innerWidth ? clientX - 16 - width : clientX + 16)}px`
    tip.style.top = `${Math.max(4, Math.min(clientY + 16, innerHeight - height - 4))}px`
  },
}

const TYPES = {places: Float32Array, neighbours: Uint16Array, near: Float32Array, levels: Uint8Array,
  votes: Uint16Array, against: Uint16Array, suspects: Uint16Array}

function decode(text, type) {
  return new type(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer)
}

function spreadIndex(index, most, count) {
  return most > 1 ? Math.round(index * (count - 1) / (most - 1)) : 0
}
