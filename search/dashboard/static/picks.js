// The trials that are looked at: up to five, and whoever draws them hears of changes.

export const MOST = 5;

export class Picks {
  #numbers = [];
  #listeners = [];

  get numbers() {
    return [...this.#numbers];
  }

  has(number) {
    return this.#numbers.includes(number);
  }

  /** Pick these in place of others; of more than five the first. */
  set(numbers) {
    this.#numbers = numbers.slice(0, MOST);
    this.#listeners.forEach((hears) => hears(this.numbers));
  }

  toggle(number) {
    if (this.has(number)) this.set(this.#numbers.filter((other) => other !== number));
    else this.set([...this.#numbers, number].slice(-MOST));
  }

  heard(listener) {
    this.#listeners.push(listener);
  }
}

/** How the picks are told apart in every chart: by colour and by shape. */
export const ROLES = ["found", "uniform", "third", "fourth", "fifth"];
export const SHAPES = ["circle", "triangle", "rect", "diamond", "pin"];
