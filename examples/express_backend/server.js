// A movie backend as Watchly replaces it: everything comes from the environment, images go to Cloudinary.
import { createReadStream } from 'node:fs';
import { unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { pipeline } from 'node:stream/promises';

import { v2 as cloudinary } from 'cloudinary';
import cors from 'cors';
import express from 'express';
import multer from 'multer';
import { DataTypes, Sequelize } from 'sequelize';

const { CORS_ORIGIN = '*', DATABASE_URL, HOST = '127.0.0.1', MAX_UPLOAD_MB = '500', PORT = '5000' } = process.env;

const sequelize = new Sequelize(DATABASE_URL, { dialect: 'postgres', logging: false });
const Movie = sequelize.define('Movie', {
  title: { type: DataTypes.STRING, allowNull: false, validate: { notEmpty: true } },
  description: DataTypes.TEXT,
  releaseYear: DataTypes.INTEGER,
  genre: DataTypes.STRING(100),
  imageUrl: DataTypes.TEXT,
}, { tableName: 'movies', underscored: true });

// The SDK reads CLOUDINARY_URL itself.
async function upload(file) {
  if (!file) return {};
  try {
    const kept = await new Promise((resolve, reject) => {
      const done = (error, result) => (error ? reject(error) : resolve(result));
      const sink = cloudinary.uploader.upload_chunked_stream({ folder: 'movies', chunk_size: 6_000_000 }, done);
      pipeline(createReadStream(file.path), sink).catch(reject);
    });
    return { imageUrl: kept.secure_url };
  } finally {
    await unlink(file.path);
  }
}

const form = multer({ dest: tmpdir(), limits: { fileSize: Number(MAX_UPLOAD_MB) * 1024 * 1024 } }).single('image');
const fields = ({ title, description, releaseYear, genre }) => ({ title, description, releaseYear, genre });

async function find(request, response, next) {
  request.movie = await Movie.findByPk(request.params.id);
  if (!request.movie) return response.status(404).json({ error: 'Movie not found' });
  next();
}

const app = express();
app.use(cors({ origin: CORS_ORIGIN.split(',') }), express.json());

app.get('/api/movies', async (request, response) => {
  const { genre, page = 1, limit = 20 } = request.query;
  const where = genre ? { genre } : {};
  const window = { limit: Number(limit), offset: (Number(page) - 1) * Number(limit) };
  const { rows, count } = await Movie.findAndCountAll({ where, order: [['id', 'ASC']], ...window });
  response.json({ movies: rows, total: count });
});

app.get('/api/movies/:id', find, (request, response) => response.json(request.movie));

app.post('/api/movies', form, async (request, response) => {
  const movie = Movie.build(fields(request.body));
  await movie.validate();
  response.status(201).json(await movie.set(await upload(request.file)).save());
});

app.put('/api/movies/:id', find, form, async (request, response) => {
  const changes = { ...fields(request.body), ...(await upload(request.file)) };
  response.json(await request.movie.update(changes));
});

app.delete('/api/movies/:id', find, async (request, response) => {
  await request.movie.destroy();
  response.status(204).end();
});

app.use((error, request, response, next) => {
  const status = error.name === 'SequelizeValidationError' || error instanceof multer.MulterError ? 400 : 500;
  response.status(status).json({ error: error.message });
});

await sequelize.sync();
const listener = app.listen(Number(PORT), HOST, () => console.log(`http://${HOST}:${listener.address().port}`));
