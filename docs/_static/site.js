// Figures lead to themselves at full size, since the column is narrower than most of them.
addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll("article img:not(a img)")) {
    const link = document.createElement("a");
    link.href = image.src;
    link.title = "at full size";
    image.replaceWith(link);
    link.append(image);
  }
});
