"""What azure-identity asks for a token of RESOURCE in this environment: method, URL, the fields of the head that matter, and the
form, as JSON. Nothing is sent.
"""
import json
import sys
import urllib.parse

from azure.core.pipeline.transport import HttpTransport
from azure.identity import ManagedIdentityCredential, WorkloadIdentityCredential


class Asked(BaseException):
    """The request, instead of an answer."""


class Noted(HttpTransport):
    def send(self, request, **_):
        if "openid-configuration" in request.url:
            return Known(request)
        fields = {name.lower(): value for name, value in request.headers.items()}
        body = request.body if isinstance(request.body, (str, type(None))) else dict(request.body)
        form = dict(urllib.parse.parse_qsl(body)) if isinstance(body, str) else body or {}
        raise Asked(request.method, request.url, fields, form)

    def open(self):
        pass

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Known:
    """The authority's own description, which msal wants first."""

    status_code = 200
    reason = "OK"
    content_type = "application/json"

    def __init__(self, request):
        self.request = request
        base = request.url.split("/v2.0/")[0]
        self.headers = {"Content-Type": "application/json"}
        self.document = {
            "issuer": f"{base}/v2.0",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        }

    def text(self, encoding=None):
        return json.dumps(self.document)

    def body(self):
        return self.text().encode()


credential, resource, client_id = sys.argv[1:]
try:
    if credential == "managed":
        made = ManagedIdentityCredential(transport=Noted(), client_id=client_id or None)
    else:
        made = WorkloadIdentityCredential(transport=Noted(), disable_instance_discovery=True)
    made.get_token(resource + "/.default")
except Asked as asked:
    method, url, fields, form = asked.args
    fields = {name: value for name, value in fields.items() if name in ("metadata", "x-identity-header")}
    print(json.dumps({"method": method, "url": url, "fields": fields, "form": form}))
