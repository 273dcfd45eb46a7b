// What the page adds when scripts may run: the values under the pointer, in all charts of the run at once, and a
// switch between light and dark. Without it every chart still stands.
(() => {
  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => ({
    figure,
    svg: figure.querySelector("svg"),
    cursor: figure.querySelector(".cursor"),
    values: [...figure.querySelectorAll(".key b")],
    data: JSON.parse(figure.querySelector("script").textContent),
  }));

  function nearest(points, x) {
    let low = 0;
    let high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle;
      else high = middle;
    }
    return x - points[low][0] < points[high][0] - x ? points[low] : points[high];
  }

  function show(chart, x) {
    chart.figure.classList.add("hover");
    chart.cursor.setAttribute("x1", x);
    chart.cursor.setAttribute("x2", x);
    chart.data.series.forEach((points, index) => { chart.values[index].textContent = nearest(points, x)[1]; });
  }

  function hide(chart) {
    chart.figure.classList.remove("hover");
    chart.values.forEach((value) => { value.textContent = ""; });
  }

  for (const chart of charts) {
    const together = "linked" in chart.figure.dataset ? charts.filter((each) => "linked" in each.figure.dataset) : [chart];
    chart.svg.addEventListener("pointermove", (event) => {
      const box = chart.svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.data.width;
      const inside = Math.min(Math.max(x, chart.data.left), chart.data.right);
      together.forEach((each) => show(each, inside));
    });
    chart.svg.addEventListener("pointerleave", () => together.forEach(hide));
  }

  document.querySelector("button").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
