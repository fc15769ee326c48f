"""Several models behind one service: which one a request gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moss.chat_rendering import ChatRenderer
from moss.config.api_keys import ApiKeyConfig
from moss.releases import Release
from moss.watched_file import WatchedFile
from serve.engines import Engine
from serve.errors import ApiError


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model behind the service."""

    name: str
    version: str
    """Digest of its manifest."""
    created: int
    """Unix time of its manifest."""


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """A model with what its turns need."""

    served: ServedModel
    engine: Engine
    renderer: ChatRenderer
    meta_version: str
    """Meta-instruction that it was trained with."""
    quality: int | None
    """Tag its replies are conditioned on by default; None for a model that was never tagged."""


class ModelRouter:
    """Finds the model of a request."""

    def __init__(
        self,
        routes: Sequence[ModelRoute],
        *,
        alias: str | None = None,
        release: WatchedFile[Release] | None = None,
    ) -> None:
        """Without a release, the first route is the released model.

        Args:
            routes: one per model, each with its own name.
            alias: name that stands for the released model.
        """
        self._routes = {route.served.name: route for route in routes}
        self._first = routes[0]
        self._alias = alias
        self._release = release

    @property
    def routes(self) -> list[ModelRoute]:
        """All models."""
        return list(self._routes.values())

    @property
    def default(self) -> str:
        """What clients should ask for: the alias, else the released model."""
        return self._alias or self._stable().served.name

    def offers_quality(self, name: str) -> bool:
        """Whether every model that answers under a name was trained with quality tags."""
        routes = [self._routes[name]] if name in self._routes else [self._stable()]
        if name == self._alias and self._release is not None and self._release.value.canary:
            routes.append(self._routes[self._release.value.canary])
        return all(route.quality is not None for route in routes)

    def listed(self, key: ApiKeyConfig) -> list[ServedModel]:
        """The models that a key may use; the alias stands first, with the stable model's data."""
        allowed = [route.served for route in self.routes if key.allows_model(route.served.name)]
        stable = self._stable().served
        if self._alias is not None and stable in allowed:
            allowed.insert(0, ServedModel(self._alias, stable.version, stable.created))
        return allowed

    def describe(self, name: str, key: ApiKeyConfig) -> ServedModel:
        """A model by its name.

        Raises:
            ApiError: 404, there is none of that name; 403, the key is not for it.
        """
        for model in self.listed(key):
            if model.name == name:
                return model
        raise self._not_allowed(name) if self._has(name) else self._unknown()

    def find(self, name: str, user: str, key: ApiKeyConfig) -> ModelRoute:
        """The model that a request gets.

        Args:
            name: what the request asks for; empty for the released model.
            user: who asks; the same user gets the same side of a canary.
        Raises:
            ApiError: 404, it is not served; 403, the key is not for it.
        """
        if name in ("", self._alias):
            route = self._released(user, key)
        elif name in self._routes:
            route = self._routes[name]
        else:
            raise self._unknown()
        if not key.allows_model(route.served.name):
            raise self._not_allowed(route.served.name)
        return route

    def _released(self, user: str, key: ApiKeyConfig) -> ModelRoute:
        """A key that is not for the canary stays with the stable model."""
        if self._release is None:
            return self._first
        name = self._release.value.model_for(user)
        return self._routes[name] if key.allows_model(name) else self._stable()

    def _stable(self) -> ModelRoute:
        return self._first if self._release is None else self._routes[self._release.value.stable]

    def _has(self, name: str) -> bool:
        return name in self._routes or name == self._alias

    def _unknown(self) -> ApiError:
        names = ", ".join([*([self._alias] if self._alias else []), *self._routes])
        return ApiError(
            404, f"this service has no model of that name; it has {names}",
            code="model_not_found", param="model",
        )  # fmt: skip

    def _not_allowed(self, name: str) -> ApiError:
        return ApiError(
            403, f"this API key is not for the model {name}",
            code="model_not_allowed", param="model",
        )  # fmt: skip
