// Uses a running Watchly by a client that is generated from its /openapi.json.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { client } from "./client/client.gen.js";
import * as watchly from "./client/index.js";

const [url, email, password, picture] = process.argv.slice(2);
assert(url && email && password && picture, "node build/main.js URL EMAIL PASSWORD PICTURE");

// Sign in, and bear the token from now on.
client.setConfig({ baseUrl: url });
const session = await watchly.signIn({ body: { email, password } });
assert(session.data, session.error?.detail);
client.setConfig({ auth: session.data.access_token });
const me = await watchly.getMe({ throwOnError: true });
console.log(`signed in as ${me.data.email}, ${me.data.role}`);

// Add a movie. A request that is sent again with its key is not done again.
const draft = { body: { title: "Heat", genre: "Crime" }, headers: { "Idempotency-Key": crypto.randomUUID() } };
const added = await watchly.addMovie({ ...draft, throwOnError: true });
const again = await watchly.addMovie({ ...draft, throwOnError: true });
assert.equal(again.data.id, added.data.id);
assert.equal(again.response.headers.get("Idempotency-Replayed"), "true");
const path = { movie_id: added.data.id };

// Revise it, unless somebody else has done so meanwhile.
const first = added.response.headers.get("ETag")!;
const revised = await watchly.reviseMovie({
  path,
  headers: { "If-Match": first },
  body: { release_year: 1995, genre: null },
  throwOnError: true,
});
assert.deepEqual([revised.data.release_year, revised.data.genre, revised.data.version], [1995, null, 2]);
const stale = await watchly.reviseMovie({ path, headers: { "If-Match": first }, body: { title: "Ronin" } });
assert.equal(stale.response.status, 412);
assert.equal(stale.error?.code, "version_conflict");

// What is wrong with a movie is told all at once, member by member.
const refused = await watchly.replaceMovie({ path, body: { title: "", release_year: 1 } });
assert(refused.error);
console.log(refused.error.errors?.map((fault) => `${fault.pointer}: ${fault.detail}`).join("\n"));

// Upload an image, and load a smaller one.
const image = new File([new Uint8Array(await readFile(picture))], "poster.png", { type: "image/png" });
const shown = await watchly.putMovieImage({ path, body: { image }, throwOnError: true });
assert(shown.data.image);
const thumbnail = await watchly.getImage({
  path: { key: shown.data.image.key },
  query: { variant: "thumbnail" },
  throwOnError: true,
});
console.log(`the thumbnail is ${thumbnail.data.type} of ${thumbnail.data.size} bytes`);

// Import a file, whose rows are all good or none is taken.
const rows = Array.from({ length: 5 }, (_, number) => JSON.stringify({ title: `Part ${number}`, genre: "Serial" }));
const imported = await watchly.importMovies({ body: new Blob([rows.join("\n")]), throwOnError: true });
assert.equal(imported.data.added, rows.length);
const rejected = await watchly.importMovies({ body: new Blob(['{"title": 1}']) });
assert(rejected.error && "rejected" in rejected.error);
assert.equal(rejected.error.rejected[0]?.line, 1);

// List them, page by page to the end.
const titles: string[] = [];
for (let cursor: string | undefined; ; ) {
  const page = await watchly.listMovies({ query: { genre: "Serial", limit: 2, cursor }, throwOnError: true });
  titles.push(...page.data.data.map((movie) => movie.title));
  if (page.data.next_cursor === null) break;
  cursor = page.data.next_cursor;
}
console.log(titles.join(", "));

// Export them, one JSON object a line, or as CSV.
const exported = await watchly.exportMovies({ query: { genre: "Serial" }, parseAs: "text", throwOnError: true });
console.log(exported.data);
const csv = await watchly.exportMovies({ headers: { Accept: "text/csv" }, parseAs: "text", throwOnError: true });
console.log(csv.data);

// Follow what happens: from the beginning on, until the movie is removed.
const following = new AbortController();
const changes = await watchly.streamChanges({
  query: { after: 0, movie_id: path.movie_id },
  signal: following.signal,
});
await watchly.removeMovie({ path, throwOnError: true });
const kinds: watchly.ChangeKind[] = [];
for await (const event of changes.stream) {
  const change = event as watchly.Change;
  kinds.push(change.kind);
  if (change.kind === "movie_removed") break;
}
following.abort();
console.log(kinds.join(", "));
const gone = await watchly.getMovie({ path });
assert.equal(gone.error?.code, "not_found");
