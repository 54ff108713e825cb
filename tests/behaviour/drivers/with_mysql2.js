// mysql2: arguments are the port, the user and the password.
const mysql = require("mysql2/promise");

const [port, user, password] = process.argv.slice(2);

async function main() {
    const client = await mysql.createConnection({ host: "127.0.0.1", port: Number(port), user, password, database: "shop" });
    const [rows] = await client.execute("select 6 * ? as answer", [7]);
    console.log(Number(rows[0].answer));
    await client.end();
}

main().catch((error) => {
    console.error(`${error.name}: ${error.message} (${error.code})`);
    process.exitCode = 1;
});
