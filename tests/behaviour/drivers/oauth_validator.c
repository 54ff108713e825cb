/* A validator module for PostgreSQL 18's `oauth` (tests/behaviour/logins_postgres_oauth.rs): role R may enter with the token `token-of-R`. */

#include "postgres.h"

/* What concerns these in a connection is not looked at, so their headers are not needed. */
#undef ENABLE_GSS
#undef USE_OPENSSL

#include "fmgr.h"
#include "libpq/oauth.h"

PG_MODULE_MAGIC;

static bool
validate(const ValidatorModuleState *state, const char *token, const char *role, ValidatorModuleResult *result)
{
	result->authorized = strcmp(token, psprintf("token-of-%s", role)) == 0;
	result->authn_id = pstrdup(role);
	return true;
}

static const OAuthValidatorCallbacks callbacks = {
	.magic = PG_OAUTH_VALIDATOR_MAGIC,
	.validate_cb = validate,
};

const OAuthValidatorCallbacks *
_PG_oauth_validator_module_init(void)
{
	return &callbacks;
}
