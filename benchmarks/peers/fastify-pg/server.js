import cluster from 'node:cluster';
import etag from '@fastify/etag';
import postgres from '@fastify/postgres';
import files from '@fastify/static';
import Fastify from 'fastify';

const PROCESSES = 2;
const CONNECTIONS = 10;

const COLUMNS = 'id, title, description, release_year, genre, image_url, image, version, created_at, updated_at';

// A query with a name is prepared once on each connection.
const GET = { name: 'get', text: `SELECT ${COLUMNS} FROM movies WHERE id = $1` };
const PAGE = { name: 'page', text: `SELECT ${COLUMNS} FROM movies WHERE id > $1 ORDER BY id LIMIT $2` };
const SEARCH = { name: 'search', text: `SELECT ${COLUMNS} FROM movies WHERE title ILIKE $1 ORDER BY id LIMIT $2` };
const ADD = {
  name: 'add',
  text: `INSERT INTO movies (title, description, release_year, genre) VALUES ($1, $2, $3, $4) RETURNING ${COLUMNS}`,
};
const REVISE = {
  name: 'revise',
  text: `UPDATE movies SET title = CASE WHEN $2 THEN $3 ELSE title END,
      description = CASE WHEN $4 THEN $5 ELSE description END,
      release_year = CASE WHEN $6 THEN $7::integer ELSE release_year END,
      genre = CASE WHEN $8 THEN $9 ELSE genre END, version = version + 1, updated_at = CURRENT_TIMESTAMP
    WHERE id = $1 RETURNING ${COLUMNS}`,
};

const text = { type: 'string', nullable: true };
const fields = {
  title: { type: 'string', minLength: 1, maxLength: 255 },
  description: text,
  release_year: { type: 'integer', nullable: true, minimum: 1870, maximum: 2200 },
  genre: { type: 'string', nullable: true, minLength: 1, maxLength: 100 },
};
const movie = {
  type: 'object',
  properties: {
    id: { type: 'integer' },
    ...fields,
    image_url: text,
    image: { type: 'object', nullable: true, additionalProperties: true },
    version: { type: 'integer' },
    created_at: { type: 'string', format: 'date-time' },
    updated_at: { type: 'string', format: 'date-time' },
  },
};
const page = { type: 'object', properties: { data: { type: 'array', items: movie } } };
const error = { type: 'object', properties: { error: { type: 'string' } } };
const byId = { type: 'object', properties: { id: { type: 'integer' } } };
const list = {
  type: 'object',
  properties: {
    after: { type: 'integer', default: 0 },
    q: { type: 'string' },
    limit: { type: 'integer', minimum: 1, maximum: 200, default: 50 },
  },
};

async function serve() {
  const app = Fastify();
  await app.register(postgres, { max: CONNECTIONS });
  await app.register(files, { root: process.env.IMAGES, prefix: '/images/', immutable: true, maxAge: '1y' });

  app.get('/api/movies', { schema: { querystring: list, response: { 200: page } } }, async (request) => {
    const { after, q, limit } = request.query;
    const query = q ? { ...SEARCH, values: [`%${q}%`, limit] } : { ...PAGE, values: [after, limit] };
    const { rows } = await app.pg.query(query);
    return { data: rows };
  });

  const one = { schema: { params: byId, response: { 200: movie, 404: error } } };
  // A tag is a hash of the reply, which takes its time: only one movie is asked for by its tag.
  app.register(async (tagged) => {
    await tagged.register(etag);
    tagged.get('/api/movies/:id', one, async (request, reply) => {
      const { rows } = await app.pg.query({ ...GET, values: [request.params.id] });
      if (!rows.length) return reply.code(404).send({ error: 'no such movie' });
      return rows[0];
    });
  });

  const created = { schema: { body: { type: 'object', required: ['title'], properties: fields }, response: { 201: movie } } };
  app.post('/api/movies', created, async (request, reply) => {
    const { title, description, release_year, genre } = request.body;
    const { rows } = await app.pg.query({ ...ADD, values: [title, description, release_year, genre] });
    return reply.code(201).header('location', `/api/movies/${rows[0].id}`).send(rows[0]);
  });

  const patched = {
    schema: { params: byId, body: { type: 'object', properties: fields }, response: { 200: movie, 404: error } },
  };
  app.patch('/api/movies/:id', patched, async (request, reply) => {
    const values = [request.params.id];
    for (const field of Object.keys(fields)) values.push(field in request.body, request.body[field]);
    const { rows } = await app.pg.query({ ...REVISE, values });
    if (!rows.length) return reply.code(404).send({ error: 'no such movie' });
    return rows[0];
  });

  await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) });
}

if (cluster.isPrimary) {
  for (let count = 0; count < PROCESSES; count += 1) cluster.fork();
} else {
  await serve();
}
