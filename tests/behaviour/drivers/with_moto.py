"""moto as AWS, and botocore as the judge of tokens.

Prints the port of moto's server. Of each line that it reads (WHERE REGION HOST PORT USER TOKEN) it prints the token that
botocore makes of the keys WHERE, at the moment that TOKEN says: `sts`, of the last web identity; `imds`, by botocore's own client
of the metadata service; or the URL of a container's endpoint.
"""
import datetime
import re
import sys

import botocore.auth
import botocore.credentials
import botocore.session
import botocore.utils
from moto.server import ThreadedMotoServer


def keys_of(where, moto):
    if where == "sts":
        from moto.sts.models import sts_backends

        roles = [role for account in sts_backends.values() for backend in account.values() for role in backend.assumed_roles]
        role = roles[-1]
        return role.access_key_id, role.secret_access_key, role.session_token
    if where == "imds":
        fetcher = botocore.utils.InstanceMetadataFetcher(base_url=moto + "/")
        found = fetcher.retrieve_iam_role_credentials()
        return found["access_key"], found["secret_key"], found["token"]
    found = botocore.utils.ContainerMetadataFetcher().retrieve_full_uri(where)
    return found["AccessKeyId"], found["SecretAccessKey"], found["Token"]


def main():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    print(port, flush=True)
    for line in sys.stdin:
        where, region, host, database_port, user, token = line.split()
        key, secret, session_token = keys_of(where, f"http://127.0.0.1:{port}")
        stamp = re.search(r"X-Amz-Date=(\w+)", token).group(1)
        now = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ")
        botocore.auth.get_current_datetime = lambda remove_tzinfo=True: now
        session = botocore.session.get_session()
        client = session.create_client(
            "rds", region_name=region, aws_access_key_id=key, aws_secret_access_key=secret, aws_session_token=session_token
        )
        print(client.generate_db_auth_token(host, int(database_port), user, region), flush=True)


main()
