"""The messaging channel endpoints. Mail channels of type smtp really send."""

import json

from aiohttp import web

from tocsin.sim import documents
from tocsin.sim.behaviour import Document, as_list
from tocsin.sim.http import ADMIN, READ, RUN, ApiCall, RequestRefused, SimRoute, bad_request, forbidden, not_found
from tocsin.sim.reporters import MAIL_TYPES, MessageNotSent, SimMail

_TYPES = (*MAIL_TYPES, "slack", "msft-teams", "google-chat", "twilio", "shell")


async def list_channels(call: ApiCall) -> object:
    items = [_item(channel) for channel in call.sim.world.channels.values()]
    for query, key in (("channelType", "type"), ("channelFamily", "family")):
        if wanted := call.text(query):
            items = [item for item in items if item.get(key) == wanted]
    return items


async def create(call: ApiCall) -> object:
    body = await call.body()
    if body.get("type") not in _TYPES:
        raise bad_request(f"Unknown channel type: {body.get('type')}")
    channel_id = str(body.get("id") or documents.opaque_id())
    if channel_id in call.sim.world.channels:
        raise bad_request(f"Messaging channel already exists: {channel_id}")
    call.sim.world.channels[channel_id] = {
        "id": channel_id,
        "type": body["type"],
        "configuration": body.get("configuration") or {},
        "permissions": body.get("permissions"),
    }
    call.sim.engine.variables_changed(None)
    return _item(call.sim.world.channels[channel_id])


async def delete(call: ApiCall) -> object:
    del call.sim.world.channels[_channel(call)["id"]]
    call.sim.engine.variables_changed(None)
    return web.Response()


async def get_settings(call: ApiCall) -> object:
    channel = _channel(call)
    return {key: channel[key] for key in ("id", "type", "configuration")}


async def put_settings(call: ApiCall) -> object:
    body, channel = await call.body(), _channel(call)
    if not isinstance(body.get("configuration"), dict):
        raise bad_request("A channel's settings hold a configuration")
    channel["configuration"] = body["configuration"]
    call.sim.engine.variables_changed(None)
    return web.Response()


async def put_permissions(call: ApiCall) -> object:
    raw = await call.request.read()
    try:
        permissions = json.loads(raw)
    except ValueError:
        permissions = None
    if not isinstance(permissions, list):
        raise bad_request("Permissions are a list")
    _channel(call)["permissions"] = permissions
    call.sim.engine.variables_changed(None)
    return web.Response()


async def send(call: ApiCall) -> object:
    """A multipart form: the part ``message`` is JSON, each part ``attachments`` a file."""
    channel = _channel(call)
    granted = channel["permissions"]
    mine = call.key.admin or granted is None
    if not mine and not any(p.get("user") == call.key.user and p.get("canUse") for p in granted):
        raise forbidden(f"Action forbidden, you may not use channel {channel['id']}")
    form = await call.request.post()
    try:
        told = json.loads(_content(form["message"]))
        to = tuple(str(address) for address in told["to"])
    except (KeyError, ValueError, TypeError):
        raise bad_request("The part `message` must be JSON with at least `to`") from None
    files = ((_name(part), _content(part)) for part in form.getall("attachments", ()))
    mail = SimMail(
        to=to,
        subject=str(told.get("subject") or ""),
        body=str(told.get("body") or ""),
        sender=str(told.get("from") or ""),
        cc=tuple(as_list(told.get("cc"))),
        bcc=tuple(as_list(told.get("bcc"))),
        html=not told.get("plainText"),
        attachments=tuple(files),
    )
    try:
        await call.sim.reporters.send_mail(channel["id"], mail, call.key.user)
    except MessageNotSent as error:
        raise RequestRefused(500, "com.dataiku.dip.exceptions.MessagingException", str(error)) from None
    return {"msg": "sent"}


def _channel(call: ApiCall) -> Document:
    try:
        return call.sim.world.channels[call.ids[0]]
    except KeyError:
        raise not_found(f"messaging channel does not exist: {call.ids[0]}") from None


def _item(channel: Document) -> Document:
    """A channel as everyone may see it."""
    item = {"id": channel["id"], "type": channel["type"]}
    if channel["type"] in MAIL_TYPES:
        configuration = channel["configuration"]
        item |= {"family": "mail", "sender": configuration.get("sender")}
        item["useCurrentUserAsSender"] = bool(configuration.get("useCurrentUserAsSender"))
    return item


def _content(part: object) -> bytes:
    if isinstance(part, web.FileField):
        return part.file.read()
    return part.encode() if isinstance(part, str) else b""


def _name(part: object) -> str:
    return part.filename if isinstance(part, web.FileField) else "attachment"


ROUTES = (
    SimRoute("GET", "messaging-channels", READ, list_channels),
    SimRoute("POST", "messaging-channels", ADMIN, create),
    SimRoute("GET", "messaging-channels/*", READ, lambda call: _item(_channel(call))),
    SimRoute("DELETE", "messaging-channels/*", ADMIN, delete),
    SimRoute("GET", "messaging-channels/*/settings", ADMIN, get_settings),
    SimRoute("PUT", "messaging-channels/*/settings", ADMIN, put_settings),
    SimRoute("GET", "messaging-channels/*/permissions", ADMIN, lambda call: as_list(_channel(call)["permissions"])),
    SimRoute("PUT", "messaging-channels/*/permissions", ADMIN, put_permissions),
    SimRoute("POST", "messaging-channels/*/actions/send", RUN, send),
)
