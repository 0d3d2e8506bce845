// What an application does with memcache-client, a JavaScript client of the text protocol; ends with an error at the first
// answer that is not what it should be. (memjs, which is older, speaks the binary protocol and nothing else.)
"use strict";

const assert = require("node:assert/strict");
const { setTimeout: pause } = require("node:timers/promises");
const { MemcacheClient } = require("memcache-client");

const PATIENCE_MS = 30_000;

async function use(client) {
  assert.deepEqual(await client.cmd("flush_all"), ["OK"]);
  await client.set("key", "value", { lifetime: 100 });
  assert.equal((await client.get("key")).value, "value");
  assert.equal(await client.get("none"), undefined);
  await assert.rejects(client.add("key", "other"), /NOT_STORED/);
  await assert.rejects(client.replace("none", "other"), /NOT_STORED/);
  await client.append("key", "+");
  await client.prepend("key", "-");
  const { value, casUniq } = await client.gets("key");
  assert.equal(value, "-value+");
  await client.cas("key", "new", { casUniq });
  await assert.rejects(client.cas("key", "newer", { casUniq }), /EXISTS/);
  await client.set("number", "007");
  assert.equal(await client.incr("number", 3), "10");
  assert.equal(await client.decr("number", 20), "0");
  await client.touch("key", 50);
  await client.set("object", { a: [1, 2.5, null] });
  assert.deepEqual((await client.get("object")).value, { a: [1, 2.5, null] });
  const keys = Array.from({ length: 100 }, (_, n) => `key${n}`);
  await Promise.all(keys.map((key, n) => client.set(key, "x".repeat(n * 50))));
  const many = await client.get([...keys, "none"]);
  assert.equal(Object.keys(many).length, keys.length);
  keys.forEach((key, n) => assert.equal(many[key].value.length, n * 50));
  await client.delete("key");
  assert.equal(await client.get("key"), undefined);
  await client.set("large", Buffer.alloc(1_000_000, "x"));
  assert.equal((await client.get("large")).value.length, 1_000_000);
  await client.set("short", "lived", { lifetime: 1 });
  const end = Date.now() + PATIENCE_MS;
  while ((await client.get("short")) !== undefined) {
    assert.ok(Date.now() < end, "an item outlives its time");
    await pause(50);
  }
}

const server = `127.0.0.1:${process.argv[2]}`;
const client = new MemcacheClient({ server, cmdTimeout: PATIENCE_MS, compressor: undefined });
use(client).then(
  () => client.shutdown(),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
