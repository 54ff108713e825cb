// node-postgres: arguments are the port, the user and the password.
const { Client } = require("pg");

const [port, user, password] = process.argv.slice(2);

async function main() {
    const client = new Client({ host: "127.0.0.1", port: Number(port), user, password, database: "postgres" });
    await client.connect();
    const { rows } = await client.query("select 6 * $1::int as answer", [7]);
    console.log(rows[0].answer);
    await client.end();
}

main().catch((error) => {
    console.error(`${error.name}: ${error.message} (${error.code})`);
    process.exitCode = 1;
});
