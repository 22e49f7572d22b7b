// Sections far down are fetched and drawn when somebody comes near them.

export function whenSeen(place, act) {
  const watch = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    watch.disconnect();
    act();
  }, { rootMargin: "300px" });
  watch.observe(place);
}
