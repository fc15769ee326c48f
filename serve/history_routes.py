"""A visitor's own conversations: list, search, show, rename, branch, rate, delete (`/app/*`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request

from moss import storage
from moss.tools.text_to_image import image_folder
from serve.chat_service import ChatService
from serve.data_routes import data_router
from serve.gate import key_of
from serve.page_schemas import BranchRequest, RenameRequest, SearchRequest
from serve.responses import Json
from serve.schemas import RatingRequest
from serve.store import Deleted
from serve.store.portable import shown_turn
from serve.users import owner_of

_IMAGE_ID: Final = re.compile(r"[0-9a-f]{32}")


def history_router(service: ChatService) -> APIRouter:
    """Routes of the history; every one answers 404 for what belongs to somebody else."""
    router = APIRouter()
    _add_reading(router, service)
    _add_writing(router, service)
    router.include_router(data_router(service, lambda deleted: remove_images(service, deleted)))
    return router


def _owner(request: Request) -> str:
    return owner_of(request, key_of(request).label)


def _add_reading(router: APIRouter, service: ChatService) -> None:
    @router.get("/app/conversations")
    async def conversations(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    ) -> list[Json]:
        """A page of `{id, title, created_at, updated_at}`, the last used conversation first."""
        rows = await asyncio.to_thread(
            service.store.conversations, _owner(request), limit=limit, offset=offset
        )
        return [asdict(row) for row in rows]

    @router.post("/app/conversations/search")
    async def search(body: SearchRequest, request: Request) -> list[Json]:
        """Conversations whose title, questions or answers hold `query`.

        As in the list, with `match`: the text around the first find, empty where it is the title.
        """
        rows = await asyncio.to_thread(
            service.store.search, _owner(request), body.query, limit=body.limit
        )
        return [asdict(row) for row in rows]

    @router.get("/app/conversations/{conversation_id}")
    async def conversation(conversation_id: str, request: Request) -> Json:
        """`{id, turns}`: the shown path, oldest turn first.

        A turn's `siblings` are the ids of all turns in its place, oldest first, itself among them;
        more than one means that there are branches to choose from. `versions` are the same ids by
        question: a list of answers for each wording.
        """
        return await _shown(service, _owner(request), conversation_id)


def _add_writing(router: APIRouter, service: ChatService) -> None:
    @router.patch("/app/conversations/{conversation_id}")
    async def rename(conversation_id: str, body: RenameRequest, request: Request) -> Json:
        """Rename; answers with the title as it is kept."""
        title = await asyncio.to_thread(
            service.store.rename, _owner(request), conversation_id, body.title
        )
        return {"id": conversation_id, "title": title}

    @router.put("/app/conversations/{conversation_id}/branch")
    async def choose_branch(conversation_id: str, body: BranchRequest, request: Request) -> Json:
        """Show the path through `turn_id` from now on; answers as GET does."""
        owner = _owner(request)
        await asyncio.to_thread(service.store.choose_branch, owner, conversation_id, body.turn_id)
        return await _shown(service, owner, conversation_id)

    @router.delete("/app/conversations/{conversation_id}")
    async def delete(conversation_id: str, request: Request) -> Json:
        """Delete a conversation for good, with its ratings and pictures."""
        deleted = await asyncio.to_thread(
            service.store.delete_conversation, _owner(request), conversation_id
        )
        await remove_images(service, deleted)
        return {"deleted": conversation_id}

    @router.delete("/app/turns/{turn_id}")
    async def delete_turn(turn_id: str, request: Request) -> Json:
        """Delete a turn and all that followed it; with the last turn the conversation goes."""
        deleted = await asyncio.to_thread(service.store.delete_turn, _owner(request), turn_id)
        await remove_images(service, deleted)
        return {"deleted": turn_id, "num_turns": deleted.num_turns}

    @router.post("/app/turns/{turn_id}/rating")
    async def rate(turn_id: str, body: RatingRequest, request: Request) -> Json:
        """Rate an answer: -1, 0 or 1, with a `reason` and a `comment` if the user gives them."""
        await asyncio.to_thread(
            service.store.rate, _owner(request), turn_id, body.rating, body.reason, body.comment
        )
        return {"rating": body.rating}


async def _shown(service: ChatService, owner: str, conversation_id: str) -> Json:
    turns = await asyncio.to_thread(service.store.turns, owner, conversation_id)
    return {"id": conversation_id, "turns": [shown_turn(turn) for turn in turns]}


async def remove_images(service: ChatService, deleted: Deleted) -> None:
    """Remove the files of pictures that no turn shows any more."""
    folder = image_folder(service.config.tools.text_to_image)
    await asyncio.to_thread(_remove, folder, deleted.images)


def _remove(folder: str, images: Iterable[str]) -> None:
    for image_id in filter(_IMAGE_ID.fullmatch, images):
        storage.remove(storage.join(folder, f"{image_id}.png"))
