"""Commands that tell others of changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from watchly_http.cli.console import read_settings, require_kept, run, run_until_told, say, show, stoppable

if TYPE_CHECKING:
    import asyncio

    from watchly_adapters.settings import Settings
    from watchly_core.webhooks import Webhooks


@click.command()
@click.option("--retry-dead", is_flag=True, help="Make messages due again that were given up, and end.")
def relay(*, retry_dead: bool) -> None:
    """Tell the broker of NATS_URL, and all webhooks, of every change, until told to stop.

    Of all processes that do so, `serve` with RELAY=on among them, one is at work at a time; another takes
    over when it ends.

    \b
    Examples:
      NATS_URL=nats://127.0.0.1:4222 watchly relay
      watchly relay --retry-dead
    """
    from watchly_http import logs
    from watchly_http.running import running_database

    settings = read_settings()
    require_kept(settings, "relays")
    if retry_dead:
        with running_database(settings) as (prepared, _):
            say(f"messages due again: {run(_revive(prepared))}")
        return
    logs.configure(settings)
    with stoppable(), running_database(settings) as (prepared, _):
        run_until_told(partial(_relay, prepared))


async def _revive(settings: Settings) -> int:
    from watchly_http.running import entered

    async with entered(settings) as container:
        return await container.relay().revive()


async def _relay(settings: Settings, stop: asyncio.Event) -> None:
    from watchly_http.relaying import relaying
    from watchly_http.running import entered, showing_metrics

    async with entered(settings, is_watched=True) as container:
        with showing_metrics(container):
            async with relaying(container):
                say("relaying")
                await stop.wait()


@click.group()
def webhook() -> None:
    """Webhooks: URLs that `relay` tells of every change, by signed requests (standardwebhooks.com).

    What is shown is JSON, one object a line.
    """


@webhook.command(name="add")
@click.argument("url")
@click.option("--secret", help="whsec_ and 24 to 64 bytes in base64; without, a new one is made.")
@click.option("--all", "everything", is_flag=True, help="Tell it of all changes since the first one.")
def add_webhook(url: str, secret: str | None, *, everything: bool) -> None:
    """Tell URL of what changes from now on; shows its id, and its secret for this one time.

    A URL on a private address is refused unless WEBHOOK_PRIVATE is on.

    \b
    Example:
      watchly webhook add https://films.example/hook
    """
    from watchly_adapters.webhooks import refuse_private

    settings = _settings()
    if not settings.webhook_private:
        refuse_private(url)

    async def add(webhooks: Webhooks) -> None:
        target = await webhooks.add(url, secret, everything=everything)
        show({"id": target.name, "url": target.url, "secret": target.secret})

    _on_webhooks(settings, add)


@webhook.command(name="list")
def list_webhooks() -> None:
    """Show all webhooks: how far they were told, what waits for them, what was given up, what is wrong.

    \b
    Example:
      watchly webhook list
    """

    async def show_all(webhooks: Webhooks) -> None:
        for each in await webhooks.listed():
            target, letters = each.target, each.letters
            show(
                {
                    "id": target.name,
                    "url": target.url,
                    "position": target.position,
                    "waiting": letters.waiting,
                    "dead": letters.dead,
                    "failing_since": target.failing_since,
                    "reason": target.reason or None,
                }
            )

    _on_webhooks(_settings(), show_all)


@webhook.command(name="remove")
@click.argument("name", metavar="ID")
def remove_webhook(name: str) -> None:
    """Forget a webhook, and what waits for it.

    \b
    Example:
      watchly webhook remove webhook-0a1b2c3d
    """
    _on_webhooks(_settings(), lambda webhooks: webhooks.remove(name))


def _on_webhooks(settings: Settings, do: Callable[[Webhooks], Awaitable[None]]) -> None:
    from watchly_http.running import entered, running_database

    async def with_parts(prepared: Settings) -> None:
        async with entered(prepared) as container:
            await do(container.webhooks())

    with running_database(settings) as (prepared, _):
        run(with_parts(prepared))


def _settings() -> Settings:
    settings = read_settings()
    require_kept(settings, "relays")
    return settings
