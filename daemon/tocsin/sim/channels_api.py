"""The messaging channel endpoints. Mail channels of type smtp really send."""

import json

from aiohttp import web

from tocsin.sim import documents
from tocsin.sim.behaviour import Document, listed
from tocsin.sim.http import ADMIN, READ, RUN, Call, Refused, Route, bad_request, forbidden, not_found
from tocsin.sim.reporters import MAIL_TYPES, Mail, NotSent

_TYPES = (*MAIL_TYPES, "slack", "msft-teams", "google-chat", "twilio", "shell")


async def list_channels(call: Call) -> object:
    items = [_item(channel) for channel in call.sim.world.channels.values()]
    for query, key in (("channelType", "type"), ("channelFamily", "family")):
        if wanted := call.text(query):
            items = [item for item in items if item.get(key) == wanted]
    return items


async def create(call: Call) -> object:
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


async def delete(call: Call) -> object:
    del call.sim.world.channels[_channel(call)["id"]]
    call.sim.engine.variables_changed(None)
    return web.Response()


async def get_settings(call: Call) -> object:
    channel = _channel(call)
    return {key: channel[key] for key in ("id", "type", "configuration")}


async def put_settings(call: Call) -> object:
    body, channel = await call.body(), _channel(call)
    if not isinstance(body.get("configuration"), dict):
        raise bad_request("A channel's settings hold a configuration")
    channel["configuration"] = body["configuration"]
    call.sim.engine.variables_changed(None)
    return web.Response()


async def put_permissions(call: Call) -> object:
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


async def send(call: Call) -> object:
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
    mail = Mail(
        to=to,
        subject=str(told.get("subject") or ""),
        body=str(told.get("body") or ""),
        sender=str(told.get("from") or ""),
        cc=tuple(listed(told.get("cc"))),
        bcc=tuple(listed(told.get("bcc"))),
        html=not told.get("plainText"),
        attachments=tuple(files),
    )
    try:
        await call.sim.reporters.send_mail(channel["id"], mail, call.key.user)
    except NotSent as error:
        raise Refused(500, "com.dataiku.dip.exceptions.MessagingException", str(error)) from None
    return {"msg": "sent"}


def _channel(call: Call) -> Document:
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
    Route("GET", "messaging-channels", READ, list_channels),
    Route("POST", "messaging-channels", ADMIN, create),
    Route("GET", "messaging-channels/*", READ, lambda call: _item(_channel(call))),
    Route("DELETE", "messaging-channels/*", ADMIN, delete),
    Route("GET", "messaging-channels/*/settings", ADMIN, get_settings),
    Route("PUT", "messaging-channels/*/settings", ADMIN, put_settings),
    Route("GET", "messaging-channels/*/permissions", ADMIN, lambda call: listed(_channel(call)["permissions"])),
    Route("PUT", "messaging-channels/*/permissions", ADMIN, put_permissions),
    Route("POST", "messaging-channels/*/actions/send", RUN, send),
)
