import cluster from 'node:cluster';
import express from 'express';
import { DataTypes, Op, Sequelize } from 'sequelize';

const PROCESSES = 2;
const CONNECTIONS = 10;

function serve() {
  const sequelize = new Sequelize(process.env.PGDATABASE, process.env.PGUSER, null, {
    dialect: 'postgres',
    host: process.env.PGHOST,
    pool: { max: CONNECTIONS },
    logging: false,
  });

  const Movie = sequelize.define('movie', {
    title: { type: DataTypes.STRING, allowNull: false, validate: { len: [1, 255] } },
    description: DataTypes.TEXT,
    release_year: { type: DataTypes.INTEGER, validate: { isInt: true, min: 1870, max: 2200 } },
    genre: { type: DataTypes.STRING(100), validate: { len: [1, 100] } },
    image_url: DataTypes.TEXT,
    image: DataTypes.JSONB,
    version: { type: DataTypes.INTEGER, defaultValue: 1 },
  }, { tableName: 'movies', underscored: true, createdAt: 'created_at', updatedAt: 'updated_at' });

  const CLIENT_FIELDS = ['title', 'description', 'release_year', 'genre'];
  const app = express();
  app.use(express.json());
  app.use('/images', express.static(process.env.IMAGES, { immutable: true, maxAge: '1y' }));

  app.get('/api/movies', async (request, response) => {
    const { after, q, limit = 50 } = request.query;
    const where = q ? { title: { [Op.iLike]: `%${q}%` } } : { id: { [Op.gt]: Number(after ?? 0) } };
    const data = await Movie.findAll({ where, order: [['id', 'ASC']], limit: Number(limit) });
    response.json({ data });
  });

  app.get('/api/movies/:id', async (request, response) => {
    const movie = await Movie.findByPk(request.params.id);
    if (!movie) return response.status(404).json({ error: 'no such movie' });
    response.json(movie);
  });

  app.post('/api/movies', async (request, response) => {
    const movie = await Movie.create(request.body, { fields: [...CLIENT_FIELDS, 'version'] });
    response.status(201).location(`/api/movies/${movie.id}`).json(movie);
  });

  app.patch('/api/movies/:id', async (request, response) => {
    const movie = await Movie.findByPk(request.params.id);
    if (!movie) return response.status(404).json({ error: 'no such movie' });
    movie.set(request.body, { fields: CLIENT_FIELDS });
    movie.version += 1;
    await movie.save();
    response.json(movie);
  });

  app.listen(Number(process.env.PORT), '127.0.0.1');
}

if (cluster.isPrimary) {
  for (let count = 0; count < PROCESSES; count += 1) cluster.fork();
} else {
  serve();
}
