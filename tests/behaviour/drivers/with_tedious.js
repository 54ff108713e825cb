// tedious through a plaintext port: a batch, and a call with a parameter that takes several packets.
const { Connection, Request, TYPES } = require('tedious');

const [port, userName, password] = process.argv.slice(2);
const connection = new Connection({
  server: '127.0.0.1',
  authentication: { type: 'default', options: { userName, password } },
  options: { port: Number(port), encrypt: false },
});

function fail(error) {
  console.error(error);
  process.exit(1);
}

function ask(method, prepare, then) {
  const request = new Request('select 42 as answer', (error) => (error ? fail(error) : then()));
  request.on('row', (columns) => console.log(columns[0].value));
  prepare(request);
  connection[method](request);
}

connection.on('connect', (error) => {
  if (error) fail(error);
  ask('execSqlBatch', () => {}, () =>
    ask('execSql', (request) => request.addParameter('text', TYPES.NVarChar, 'x'.repeat(3000)), () => connection.close()));
});
connection.connect();
