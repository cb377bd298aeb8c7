"""The addresses of the server: /search, /v1/embeddings, /health, /pictures/N and a page."""

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException

from mmtrain.display.html import page, picture_uri
from mmtrain.display.languages import language_name
from mmtrain.search.results import QUERY_SIDE, TEMPLATE, Query, Result, as_json, page_values
from mmtrain.serving.guard import error_json
from mmtrain.serving.service import LONGEST_TEXT, BadRequest, Service

T = TypeVar("T")
MOST_PICTURES = 8  # of one query
NO_FILE = "image: expected a file, as in curl -F image=@FILE"
FIELDS = ("text", "language", "k", "image")


class EmbeddingsRequest(BaseModel):
    """What /v1/embeddings takes; `language` and `role` are ours."""

    input: str | list[str]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    language: str | None = None
    role: str | None = None
    user: str | None = None


def make_app(service: Service) -> FastAPI:
    """The application; the model and the index are used by one thread, one request after the other."""
    app = FastAPI(title="mmtrain", docs_url=None, redoc_url=None, openapi_url=None)
    thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def do(function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        images = None if service.index is None else len(service.index)
        facts = {"model": service.name, "dimension": service.encoder.model.dimension, "images": images}
        return {"status": "ok", **facts, "languages": service.languages}

    @app.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingsRequest) -> dict[str, Any]:
        if asked.model not in (None, service.name):
            raise HTTPException(404, f"model: got {asked.model!r}, this server has {service.name!r}")
        inputs = [asked.input] if isinstance(asked.input, str) else asked.input
        rows, tokens = await do(service.embed, inputs, asked.language, asked.role, asked.dimensions)
        data = [
            {
                "object": "embedding",
                "index": number,
                "embedding": row.tolist()
                if asked.encoding_format == "float"
                else base64.b64encode(row.astype("<f4").tobytes()).decode(),
            }
            for number, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": service.name, "usage": usage}

    if service.index is not None:
        _add_search(app, service, do)

    @app.exception_handler(BadRequest)
    async def bad(request: Request, error: BadRequest) -> Response:
        return _refused(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _refused(422, "body: no JSON")
        place = next((part for part in first["loc"][1:] if isinstance(part, str)), "body")
        return _refused(422, f"{place}: {first['msg']}")

    @app.exception_handler(AnyHTTPException)
    async def http(request: Request, error: AnyHTTPException) -> Response:
        return _refused(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _refused(500, "the server failed; its own messages say why")  # the guard writes them

    return app


def _add_search(app: FastAPI, service: Service, do: Callable[..., Any]) -> None:
    assert service.index is not None
    index = service.index
    languages = sorted(service.languages, key=lambda code: language_name(code) or code)

    async def found(fields: dict[str, Any]) -> tuple[Query, list[bytes], list[Result]]:
        text, language, images = (fields.get(name) or None for name in ("text", "language", "image"))
        if isinstance(images, str):
            raise BadRequest(NO_FILE)
        images = images or []
        try:
            k = int(fields.get("k") or 10)
        except ValueError:
            raise BadRequest(f"k: got {fields['k'][:20]!r}, expected a whole number") from None
        query = Query(text, language, (Path("picture"),) * len(images))
        return query, images, await do(service.search, text, language, images, k)

    async def as_answer(fields: dict[str, Any]) -> dict[str, Any]:
        query, _, results = await found(fields)
        asked = {"text": query.text, "language": query.language, "image": bool(query.images)}
        answers = [
            answer | {"picture": _address(result)} for answer, result in zip(as_json(results), results, strict=True)
        ]
        return {"query": {name: value for name, value in asked.items() if value}, "results": answers}

    async def as_page(fields: dict[str, Any]) -> HTMLResponse:
        query, error = Query(), None
        images: list[str] = []
        results: list[Result] = []
        if fields.get("text") or fields.get("image"):
            try:
                query, contents, results = await found(fields)
                if query.text and not contents:
                    results = await do(service.with_words, query.text, query.language, results)
                images = [await do(picture_uri, content, QUERY_SIDE) for content in contents]
            except BadRequest as refused:
                error = str(refused)
        description = index.description | {"model": service.name}
        first = [*filter(None, [query.language]), *service.encoder.languages]
        values = page_values(results, description, first, lambda item: f"/pictures/{item.number}")
        served = {"languages": languages, "error": error, "longest": LONGEST_TEXT}
        title = query.name or "Search pictures"
        shown = page(TEMPLATE, title=title, query=query, images=images, served=served, **values)
        return HTMLResponse(shown.encode("utf-8", "replace"), 200 if error is None else 400)

    @app.get("/search")
    async def search(request: Request) -> dict[str, Any]:
        return await as_answer(dict(request.query_params))

    @app.post("/search")
    async def search_form(request: Request) -> dict[str, Any]:
        return await as_answer(await _form(request))

    @app.get("/")
    async def search_page(request: Request) -> HTMLResponse:
        return await as_page(dict(request.query_params))

    @app.post("/")
    async def search_page_form(request: Request) -> HTMLResponse:
        return await as_page(await _form(request))

    @app.get("/pictures/{number}")
    async def picture(number: int) -> Response:
        if not 0 <= number < len(index):
            raise HTTPException(404, f"pictures: there is no {number}; 0 to {len(index) - 1}")
        (item,) = await do(index.items.read, [number])
        return Response(item.thumbnail, media_type="image/jpeg")


async def _form(request: Request) -> dict[str, Any]:
    """The fields of a form, the pictures as a list of bytes."""
    fields: dict[str, Any] = {}
    images: list[bytes] = []
    async with request.form(max_files=MOST_PICTURES, max_fields=len(FIELDS)) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                if name == "image" and value:
                    raise BadRequest(NO_FILE)
                fields[name] = value
            elif name != "image":
                raise BadRequest("search: the field of a file is image")
            elif content := await value.read():
                images.append(content)
    return fields | {"image": images}


def _address(result: Result) -> str:
    return f"/pictures/{result.item.number}"


def _refused(status: int, message: str) -> Response:
    return Response(error_json(status, message), status, media_type="application/json")
