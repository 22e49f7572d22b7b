// Files are sent in parts, each by its sha256, and go on where they were cut off.
import { call } from "./api.js";

const PART = 8 * 2 ** 20;

export async function sha256(file) {
  if (!crypto.subtle) throw new Error("this browser computes no checksums on a page that came by plain HTTP from elsewhere: use HTTPS, or `prunefront submit`");
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Send a file; gives its sha256. `told(share)` hears how much of it is there. */
export async function send(file, told) {
  if (!file.size) throw new Error(`${file.name} is empty; choose another file`);
  const digest = await sha256(file);
  let { size_bytes: from, whole } = await call(`/uploads/${digest}`);
  while (!whole) {
    const first = Math.min(from, file.size - 1);
    // All may be there and not known to be whole, after a kill of the service: its end is sent again.
    const part = file.slice(first, first + PART);
    const range = `bytes ${first}-${first + part.size - 1}/${file.size}`;
    ({ size_bytes: from, whole } = await call(`/uploads/${digest}`, { method: "PUT", body: part, headers: { "Content-Range": range, "Content-Type": "application/octet-stream" } }));
    told(from / file.size);
  }
  return digest;
}
