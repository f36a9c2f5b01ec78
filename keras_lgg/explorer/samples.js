"use strict"
// How a sample looks, in a list, a table or beside the pointer; and the legends.

Object.assign(explorer, {
  described(sample, size) {
    const {captions} = this.data
    const caption = captions ? [tag("div", {className: "caption"}, captions[sample])] : []
    return tag("div", {className: "head"}, ...this.picture(sample, size), tag("div", {}, this.title(sample), ...caption))
  },

  // A sample that one can select, with a note.
  button(sample, size, note = "") {
    const {captions, classes, names} = this.data
    const hint = [classes ? names[classes[sample]] : "", captions ? captions[sample] : ""].join(" ")
    const button = tag("button", {type: "button", title: hint.trim(), onclick: () => this.select([sample])},
      ...this.picture(sample, size), this.title(sample, 6), tag("span", {className: "faint"}, note))
    button.dataset.sample = sample
    return button
  },

  // The class and the number of a sample; of a class with a long name the sign alone.
  title(sample, most = Infinity) {
    const {classes, names, looks} = this.data
    const number = tag("span", {className: "faint"}, `#${sample}`)
    if (!classes) return tag("span", {className: "title"}, number)
    const [color, , sign] = looks[classes[sample]]
    const name = names[classes[sample]]
    return tag("span", {className: "title"}, tag("span", {className: "sign", style: `color:${color}`}, sign),
      name.length <= most ? ` ${name} ` : " ", number)
  },

  picture(sample, size) {
    if (!this.data.picture) return []
    const [width, height, columns] = this.data.picture
    const scale = size / Math.max(width, height)
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)]
    const rows = Math.ceil(this.data.order.length / columns)
    const [column, row] = [sample % columns, Math.floor(sample / columns)]
    const style = `width:${w}px;height:${h}px;box-sizing:content-box;`
      + `background-size:${columns * w}px ${rows * h}px;background-position:${-column * w}px ${-row * h}px`
    return [tag("span", {className: "picture", style})]
  },

  fillLegend() {
    const {classes, names, looks} = this.data
    document.getElementById("legend")?.replaceChildren(...names.map((name, each) => {
      const members = () => this.data.order.filter(sample => classes[sample] === each)
      const sign = tag("span", {className: "sign", style: `color:${looks[each][0]}`}, looks[each][2])
      return tag("button", {type: "button", onclick: () => this.select(members())}, sign, name)
    }))
  },

  // Which line of the curves is whose.
  fillKeys() {
    const {networks} = this.data
    if (networks.length === 1) return
    const looks = this.data.lines
    document.getElementById("keys").replaceChildren(...networks.flatMap((network, i) => [
      tag("span", {className: "sign", style: `color:${looks[i][0]}`}, looks[i][2]), ` ${network.name}  `,
    ]))
  },
})

function tag(name, properties, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(properties)) {
    if (key in element && key !== "style") element[key] = value
    else element.setAttribute(key, value)
  }
  element.append(...children)
  return element
}
