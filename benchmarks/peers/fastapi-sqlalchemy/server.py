"""The movies by FastAPI and SQLAlchemy's asynchronous ORM, as their tutorials have it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, String, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

CONNECTIONS = 10


class Base(DeclarativeBase):
    """What the tables have in common."""


class Movie(Base):
    """A row."""

    __tablename__ = "movies"
    # What the database sets comes back with the statement that writes it.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - that is how SQLAlchemy is told

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(255))
    description: Mapped[str | None] = mapped_column(Text)
    release_year: Mapped[int | None]
    genre: Mapped[str | None] = mapped_column(String(100))
    image_url: Mapped[str | None] = mapped_column(Text)
    image: Mapped[dict[str, object] | None] = mapped_column(JSONB)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(DateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime, server_default=func.now())


class MovieIn(BaseModel):
    """What a client sends to add one."""

    title: str = Field(min_length=1, max_length=255)
    description: str | None = Field(default=None, max_length=10_000)
    release_year: int | None = Field(default=None, ge=1870, le=2200)
    genre: str | None = Field(default=None, min_length=1, max_length=100)


class MovieChanges(MovieIn):
    """What a client sends to change one."""

    title: str = Field(default="", min_length=1, max_length=255)


class MovieOut(BaseModel):
    """What a client is sent."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    description: str | None
    release_year: int | None
    genre: str | None
    image_url: str | None
    image: dict[str, object] | None
    version: int
    created_at: datetime
    updated_at: datetime


class MoviePage(BaseModel):
    """A list of them."""

    data: list[MovieOut]


# asyncpg reads the folder of the socket, the user and the database from the variables of libpq.
engine = create_async_engine(
    URL.create("postgresql+asyncpg", username=os.environ["PGUSER"], database=os.environ["PGDATABASE"]),
    pool_size=CONNECTIONS,
    max_overflow=0,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()
app.mount("/images", StaticFiles(directory=os.environ["IMAGES"]))


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


@app.get("/api/movies", response_model=MoviePage)
async def list_movies(
    session: Session, after: int = 0, q: str | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> dict[str, Sequence[Movie]]:
    query = select(Movie).order_by(Movie.id).limit(limit)
    query = query.where(Movie.title.ilike(f"%{q}%") if q else Movie.id > after)
    return {"data": (await session.scalars(query)).all()}


@app.get("/api/movies/{movie_id}", response_model=MovieOut)
async def get_movie(movie_id: int, session: Session) -> Movie:
    movie = await session.get(Movie, movie_id)
    if movie is None:
        raise HTTPException(404, "no such movie")
    return movie


@app.post("/api/movies", response_model=MovieOut, status_code=201)
async def add_movie(draft: MovieIn, session: Session, response: Response) -> Movie:
    movie = Movie(**draft.model_dump())
    session.add(movie)
    await session.commit()
    response.headers["Location"] = f"/api/movies/{movie.id}"
    return movie


@app.patch("/api/movies/{movie_id}", response_model=MovieOut)
async def revise_movie(movie_id: int, changes: MovieChanges, session: Session) -> Movie:
    movie = await session.get(Movie, movie_id)
    if movie is None:
        raise HTTPException(404, "no such movie")
    for field, value in changes.model_dump(exclude_unset=True).items():
        setattr(movie, field, value)
    movie.version += 1
    movie.updated_at = func.now()
    await session.commit()
    return movie
